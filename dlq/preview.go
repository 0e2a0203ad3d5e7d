package dlq

import (
	"cmp"
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// Preview tells what Run would report for letters, as far as that can be told
// without sending one: it looks at topics and, where the job does, at the
// table. It fences nobody, so a job of somebody else may come first, and what
// only a produce finds out is not found. Err of a Result says why the letter
// would stay.
func (r *Replayer) Preview(ctx context.Context, job Job, refs []Ref, tell func(*Item, Result)) error {
	cl, err := r.View.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	u := &run{Replayer: r, job: job, sess: &session{Replayer: r, cl: cl, adm: kadm.NewClient(cl), targets: newTargets(r.Denied)}}
	u.sess.targets.adm = u.sess.adm
	held, now := map[markID]bool{}, time.Now()
	for len(refs) > 0 {
		n := batchOf(refs)
		items, err := r.View.Fetch(ctx, refs[:n])
		if err != nil {
			return err
		}
		for _, item := range items {
			res, err := u.foretell(ctx, item, now, held)
			if err != nil {
				return err
			}
			tell(item, res)
		}
		refs = refs[n:]
	}
	return nil
}

// foretell is decide without marks.
func (u *run) foretell(ctx context.Context, item *Item, now time.Time, held map[markID]bool) (Result, error) {
	res := Result{Where: item.Where, ID: item.ID(), Group: item.Group, Topic: cmp.Or(u.job.To, item.Topic), Outcome: OutcomeDone}
	switch {
	case item.gone:
		res.Err = fault.New(fault.LetterGone, "partition %d, offset %d", item.Where.Partition, item.Where.Offset)
	case u.job.Action == Replayed:
		rec, no, err := u.record(ctx, &item.Letter, now, held)
		if err != nil {
			return res, err
		}
		if rec != nil {
			res.Topic = rec.Topic
		}
		res.Err = no
	}
	if res.Err != nil {
		res.Outcome = OutcomeRefused
		if len(item.Key) > 0 {
			held[keyOf(res.Topic, item.Key)] = true
		}
	}
	return res, nil
}
