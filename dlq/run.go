package dlq

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/outbox"
)

// run is a job at work.
type run struct {
	*Replayer
	job      Job
	sess     *session                // nil: none is open
	held     map[markID]bool         // topics and keys with a letter that stays
	noTopic  map[string]*fault.Error // topics that take nothing, as only a produce has told
	failures int                     // of sessions, in a row
}

func (u *run) end() {
	if u.sess != nil {
		u.sess.close()
		u.sess = nil
	}
}

// letter is a letter on its way.
type letter struct {
	*Item
	no *fault.Error // what the broker said to it alone
}

// batch fetches letters and does the job on them.
func (u *run) batch(ctx context.Context, refs []Ref) error {
	items, err := u.View.Fetch(ctx, refs)
	if err != nil {
		return err
	}
	letters := make([]letter, len(refs))
	for i, item := range items {
		letters[i] = letter{Item: item}
		if item.gone {
			letters[i].no = fault.New(fault.LetterGone, "partition %d, offset %d", item.Where.Partition, item.Where.Offset)
		}
	}
	return u.part(ctx, letters)
}

// part does the job on letters in one transaction, or, if a broker refuses
// that for the sake of some of them, on one half and then on the other: all
// are done but those that are refused by themselves, and in order.
func (u *run) part(ctx context.Context, letters []letter) error {
	for len(letters) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := u.transaction(ctx, letters)
		if err == nil {
			u.failures = 0
			letters = letters[n:]
			continue
		}
		u.end()
		no := (*refusedError)(nil)
		switch {
		case errors.As(err, &no) && n == 1 && letters[0].no != nil:
			return kafka.Classify("mark a letter", no.err) // it was not sent this time
		case errors.As(err, &no) && n == 1:
			u.sayNo(&letters[0], no)
		case errors.As(err, &no):
			for _, half := range [2][]letter{letters[:n/2], letters[n/2 : n]} {
				if err := u.part(ctx, half); err != nil {
					return err
				}
			}
			letters = letters[n:]
		default:
			if err := u.wait(ctx, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// wait is for what may pass. A commit in doubt needs nothing else: the next
// session reads what happened.
func (u *run) wait(ctx context.Context, err error) error {
	u.failures++
	code := fault.CodeOf(err)
	if u.failures >= cmp.Or(u.Tries, defaultTries) || code.Class != fault.Retry || code == fault.ReplayFenced || ctx.Err() != nil {
		return err
	}
	pause := min(firstPatience<<(u.failures-1), mostPatience)
	u.Log.Warn().Err(err).Dur("pause", pause).Msg("letters are tried again")
	select {
	case <-time.After(pause):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// sayNo keeps why a letter stays, for its topic too if that is what it is about.
func (u *run) sayNo(l *letter, no *refusedError) {
	topic := cmp.Or(u.job.To, l.Topic)
	l.no = fault.As(kafka.Classify(fmt.Sprintf("produce to %.300s", topic), no.err))
	if l.no.Code == fault.KafkaDenied || l.no.Code == fault.KafkaTopicMissing {
		u.noTopic[topic] = l.no
	}
}

// transaction does the job on the first letters, as many as go together, and
// returns their number, also with an error. It decides by what was read behind
// its own fence.
func (u *run) transaction(ctx context.Context, letters []letter) (int, error) {
	if u.sess == nil {
		sess, err := u.begin(ctx)
		if err != nil {
			return len(letters), err
		}
		for topic, no := range u.noTopic {
			sess.targets.refuse(topic, no)
		}
		u.sess = sess
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	var (
		records []*kgo.Record
		results = make([]Result, 0, len(letters))
		keys    = map[string]bool{}
		// What stays holds its followers back, also those of this transaction,
		// and for good only once that is committed.
		held = maps.Clone(u.held)
	)
	for i := range letters {
		l := &letters[i]
		key := markKey(l.ID(), l.Group, l.Where.Partition, l.Where.Offset)
		if keys[key] {
			break // what a mark of its key says has to be known first
		}
		keys[key] = true
		res, sent, err := u.decide(ctx, l, now, held)
		if err != nil {
			return i + 1, err
		}
		records = append(records, sent...)
		results = append(results, res)
	}
	n := len(results)
	if len(records) > 0 {
		if err := u.sess.commit(ctx, records); err != nil {
			return n, err
		}
	}
	for i, res := range results {
		// The topic has the last word: a mark that was not read back was not
		// written, whatever was answered.
		if res.Outcome == OutcomeDone && u.View.marks.of(&letters[i].Letter, res.Where).Open {
			return n, fault.New(fault.TransactionFailed, "the mark of the letter in partition %d at %d was not committed", res.Where.Partition, res.Where.Offset)
		}
	}
	u.held = held
	for _, res := range results {
		u.Metrics.count(u.job, &res)
		if u.job.Report != nil {
			u.job.Report(res)
		}
	}
	return n, nil
}

// decide says what becomes of a letter, and what has to be written for that.
// An error means that it could not be found out.
func (u *run) decide(ctx context.Context, l *letter, now time.Time, held map[markID]bool) (Result, []*kgo.Record, error) {
	res := Result{Where: l.Where, ID: l.ID(), Group: l.Group, Topic: cmp.Or(u.job.To, l.Topic), Outcome: OutcomeDone}
	status := u.View.marks.of(&l.Letter, l.Where)
	if !status.Open && !l.gone {
		res.Outcome = OutcomeClosed
		return res, nil, nil
	}
	if u.job.Defer != nil && status.Action == Deferred && (status.NextAt.IsZero() || status.NextAt.After(now)) {
		// Another scheduler was here since.
		res.Outcome, res.NextAt = OutcomeLater, status.NextAt
		return res, nil, nil
	}
	mark := Mark{
		ID: res.ID, Group: l.Group, Action: u.job.Action, At: now, By: u.By, Attempts: l.Attempts, Letter: l.Where, Because: u.job.Because,
	}
	var records []*kgo.Record
	res.Err = l.no
	if u.job.Action == Replayed && res.Err == nil {
		rec, no, err := u.record(ctx, &l.Letter, now, held)
		if err != nil {
			return res, nil, err
		}
		if rec != nil {
			res.Topic = rec.Topic
		}
		res.Err, mark.Topic = no, res.Topic
		records = append(records, rec)
	}
	if res.Err != nil {
		res.Outcome, records = OutcomeRefused, nil
		if len(l.Key) > 0 {
			held[keyOf(res.Topic, l.Key)] = true
		}
		if u.job.Defer == nil || l.gone || res.Err.Code == fault.LetterHeldBack {
			return res, nil, nil
		}
		// Its mark says when it is tried again, or that it no longer is.
		mark.Action, mark.Code, mark.Topic, mark.Attempts = Deferred, res.Err.Code.ID, "", status.Attempts+1
		if wait, ok := u.job.Defer.Wait(mark.Attempts); ok {
			mark.NextAt = now.Add(wait)
		}
		res.Outcome, res.NextAt = OutcomeDeferred, mark.NextAt
	}
	u.View.marks.join(&mark)
	rec, err := mark.Record(StateTopic(u.View.Topic))
	if err != nil {
		return res, nil, fault.Wrap(err, fault.Unclassified, "make a mark")
	}
	return res, append(records, rec), nil
}

// record makes what is to be sent of a letter. The fault says why it stays, the
// error that this could not be found out.
func (u *run) record(ctx context.Context, l *Letter, now time.Time, held map[markID]bool) (*kgo.Record, *fault.Error, error) {
	if n := u.job.MaxReplays; n > 0 && l.Attempts > n {
		return nil, fault.New(fault.LetterLoop, "replayed %d times", l.Attempts-1), nil
	}
	rec, err := l.Replay(now)
	if err != nil || u.job.FromTable {
		if l, err = u.Table.rebuild(ctx, l, u.job.FromTable); err == nil {
			rec, err = l.Replay(now)
		}
	}
	if f := (*fault.Error)(nil); errors.As(err, &f) && (f.Code.Class == fault.Finding || f.Code.Class == fault.Reject) {
		return nil, f, nil
	}
	if err != nil {
		return nil, nil, err
	}
	partition := l.Partition
	if u.job.To != "" {
		rec.Topic, partition = u.job.To, outbox.Partition(0)
	}
	if len(rec.Key) > 0 && held[keyOf(rec.Topic, rec.Key)] {
		return rec, fault.New(fault.LetterHeldBack, "topic %.300q", rec.Topic), nil
	}
	no, err := u.sess.targets.check(ctx, rec, partition)
	if n, ok := partition.Get(); ok && no == nil && err == nil {
		u.Place(rec, n)
	}
	return rec, no, err
}

// keyOf names a topic and a key, within which order is kept.
func keyOf(topic string, key []byte) markID { return idOf(topic + "\x00" + string(key)) }
