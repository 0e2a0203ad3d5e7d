package relay

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/replication"
)

// addition is one call of add or idle, and what the reader does before it.
type addition struct {
	wait    time.Duration
	tx      *replication.Tx // idle if it says so
	records []*kgo.Record
	bytes   int
}

// load is a random stream, and a random pace of the commits that take it.
type load struct {
	limits    Limits
	part      int // rows in one part at most
	additions []addition
	commits   []time.Duration
}

func drawLoad(t *rapid.T) load {
	pace := rapid.SampledFrom([]time.Duration{0, 0, 1, 2, 5, 40})
	l := load{part: rapid.IntRange(1, 6).Draw(t, "part")}
	l.limits.Size = rapid.IntRange(1, 8).Draw(t, "size")
	l.limits.Max = rapid.IntRange(l.limits.Size, 30).Draw(t, "max")
	l.limits.MaxBytes = rapid.IntRange(1, 200).Draw(t, "max bytes")
	for x := range rapid.IntRange(1, 30).Draw(t, "transactions") {
		commit, end := lsns(x)
		rows := rapid.IntRange(0, rapid.SampledFrom([]int{1, 3, 60}).Draw(t, "scale")).Draw(t, "rows")
		if rows == 0 {
			l.additions = append(l.additions, addition{wait: pace.Draw(t, "wait"), tx: &replication.Tx{
				Idle: true, EndLSN: end, ReplyAsked: rapid.Bool().Draw(t, "reply"),
			}})
			continue
		}
		ord := uint64(0)
		for done := 0; done < rows; {
			a := addition{wait: pace.Draw(t, "wait"), tx: &replication.Tx{XID: uint32(x), CommitLSN: commit}}
			for len(a.records) < l.part && done < rows {
				done++
				ord += rapid.Uint64Range(1, 3).Draw(t, "step")
				a.tx.Rows = append(a.tx.Rows, replication.Row{Ord: ord})
				a.records = append(a.records, &kgo.Record{Value: []byte(strconv.Itoa(x) + "/" + strconv.FormatUint(ord, 10))})
				a.bytes += rapid.IntRange(1, 20).Draw(t, "bytes")
			}
			if done == rows {
				a.tx.Last, a.tx.EndLSN = true, end
			}
			l.additions = append(l.additions, a)
		}
	}
	l.commits = rapid.SliceOfN(pace, 1, 20).Draw(t, "commits")
	return l
}

// run feeds the load and takes it, and returns what was taken. A deadlock ends
// the test, because time stands still in one.
func (l load) run(t *testing.T) (taken []*group, err error) {
	synctest.Test(t, func(t *testing.T) {
		b := newGathering(l.limits, base())
		var fed error
		done := make(chan struct{})
		go func() {
			defer close(done)
			for _, a := range l.additions {
				time.Sleep(a.wait)
				if a.tx.Idle {
					b.idle(a.tx.EndLSN, a.tx.ReplyAsked)
				} else if fed = b.add(t.Context(), a.tx, a.records, a.bytes, uint64(len(a.records))); fed != nil {
					return
				}
				b.mu.Lock()
				if held, most := b.held(), l.limits.Max+2*l.part; held > most {
					fed = fmt.Errorf("%d rows are held, and %d are the most", held, most)
				}
				b.mu.Unlock()
			}
		}()
		for n := 0; ; n++ {
			g, terr := b.take(t.Context(), done, time.Now().Add(3))
			if terr != nil || g == nil {
				err = errors.Join(fed, terr)
				break
			}
			taken = append(taken, g)
			time.Sleep(l.commits[n%len(l.commits)])
		}
		// The stream has ended; what is still there is taken without waiting.
		for {
			ctx, cancel := context.WithTimeout(t.Context(), 1)
			g, terr := b.take(ctx, nil, time.Now())
			cancel()
			if terr != nil {
				break
			}
			taken = append(taken, g)
		}
		<-done
		if b.held() > 0 {
			err = errors.Join(err, fmt.Errorf("%d rows are left", b.held()))
		}
	})
	return taken, err
}

func (b *gathering) held() int {
	n := len(b.open.records)
	if b.ready != nil {
		n += len(b.ready.records)
	}
	return n
}

// For any stream and any pace: what is taken is what was added, in order; each
// position says exactly what was taken up to it; groups are bounded; nothing
// waits for ever.
func TestGatheringRapid(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l := drawLoad(rt)
		taken, err := l.run(t)
		if err != nil {
			rt.Fatal(err)
		}
		var want, got []string
		ends := map[string]addition{} // of the last row of each part
		for _, a := range l.additions {
			for _, r := range a.records {
				want = append(want, string(r.Value))
			}
			if n := len(a.records); n > 0 {
				ends[string(a.records[n-1].Value)] = a
			}
		}
		last := base().Pos
		for _, g := range taken {
			if g.pos.Compare(last) < 0 || g.pos.EndLSN < last.EndLSN {
				rt.Fatalf("position %+v follows %+v", g.pos, last)
			}
			if most := l.limits.Max + 2*l.part; len(g.records) > most {
				rt.Fatalf("a group of %d rows, and %d are the most", len(g.records), most)
			}
			if g.letters != uint64(len(g.records)) {
				rt.Fatalf("%d letters of %d", g.letters, len(g.records))
			}
			if len(g.records) > 0 {
				if err := place(g, ends, l.limits); err != nil {
					rt.Fatal(err)
				}
			}
			last, got = g.pos, append(got, g.values()...)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatalf("rows (-added +taken):\n%s", diff)
		}
		for _, a := range l.additions {
			if a.tx.EndLSN > last.EndLSN {
				rt.Fatalf("the last position is %+v, and %s was added", last, a.tx.EndLSN)
			}
		}
	})
}

// place compares a group's position with the part that its last row ends.
func place(g *group, ends map[string]addition, limits Limits) error {
	id := string(g.records[len(g.records)-1].Value)
	a, ok := ends[id]
	if !ok {
		return fmt.Errorf("a group ends with %s, inside a part", id)
	}
	want := checkpoint.Position{Timeline: 1, CommitLSN: a.tx.CommitLSN, EndLSN: a.tx.EndLSN}
	if !a.tx.Last {
		want.Ordinal = a.tx.Rows[len(a.tx.Rows)-1].Ord
		want.EndLSN = g.pos.EndLSN // of the predecessor, or idle
		if g.pos.EndLSN > a.tx.CommitLSN {
			return fmt.Errorf("cut at %+v, past its own transaction", g.pos)
		}
		if len(g.records) < limits.Max && g.bytes < limits.MaxBytes {
			return fmt.Errorf("cut with %d rows of %d bytes, under the limits %+v", len(g.records), g.bytes, limits)
		}
		for _, r := range g.records {
			var x, ord int
			if _, err := fmt.Sscanf(string(r.Value), "%d/%d", &x, &ord); err != nil || uint32(x) != a.tx.XID {
				return fmt.Errorf("a cut group holds %s besides %s", r.Value, id)
			}
		}
	} else if idle := g.pos.EndLSN; idle > a.tx.EndLSN && idle < a.tx.EndLSN+0x100 {
		return fmt.Errorf("position %+v, and the transaction ended at %s", g.pos, a.tx.EndLSN)
	} else if idle > a.tx.EndLSN {
		want.EndLSN = idle
	}
	if g.pos != want {
		return fmt.Errorf("position %+v after %s, want %+v", g.pos, id, want)
	}
	if g.lastTx.XID != a.tx.XID || g.lastTx.CommitLSN != a.tx.CommitLSN || g.lastTx.EndLSN != a.tx.EndLSN {
		return fmt.Errorf("last transaction %+v after %s", g.lastTx, id)
	}
	return nil
}
