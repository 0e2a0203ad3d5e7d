package replication_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pglogrepl"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
)

// The relations of these tests: the outbox, a table of the same name in
// another schema, and one that nobody asked for.
const (
	events  = 1
	foreign = 2
	other   = 3
)

var describe = [][]byte{
	relation(events, "outbox", "events", "id", "payload"),
	relation(foreign, "public", "events", "id", "payload"),
	relation(other, "outbox", "orders", "id"),
}

// assembly runs messages through an assembler and keeps what comes out.
type assembly struct {
	*replication.Assembler
	t   testing.TB
	out []*replication.Tx
}

func assemble(t testing.TB, r replication.Resume) *assembly {
	t.Helper()
	a := &assembly{t: t}
	a.Assembler = replication.NewAssembler("outbox", "events", r, func(tx *replication.Tx) { a.out = append(a.out, tx) })
	a.feed(describe...)
	return a
}

// feed hands over messages that have to be taken.
func (a *assembly) feed(messages ...[]byte) {
	a.t.Helper()
	for _, m := range messages {
		if err := a.Message(1, m); err != nil {
			a.t.Fatal(err)
		}
	}
}

// script renders what came out, one word each: "10/a.1,b.3+" is the
// transaction that commits at 0x10 with the rows a and b of ordinals 1 and 3
// and no end yet, "=20" an end at 0x20, "~30" an idle position.
func (a *assembly) script() string {
	var words []string
	for _, tx := range a.out {
		if tx.Idle {
			words = append(words, fmt.Sprintf("~%x", uint64(tx.EndLSN)))
			continue
		}
		var rows []string
		for _, r := range tx.Rows {
			rows = append(rows, fmt.Sprintf("%s.%d", r.Values[0], r.Ord))
		}
		end := "+"
		if tx.Last {
			end = fmt.Sprintf("=%x", uint64(tx.EndLSN))
		}
		words = append(words, fmt.Sprintf("%x/%s%s", uint64(tx.CommitLSN), strings.Join(rows, ","), end))
	}
	return strings.Join(words, " ")
}

// txn is the messages of a transaction that commits at lsn and ends 8 behind.
func txn(lsn pglogrepl.LSN, xid uint32, changes ...[]byte) [][]byte {
	return append(append([][]byte{begin(lsn, noon, xid)}, changes...), commit(lsn, lsn+8, noon))
}

func ev(id string) []byte { return row(events, id, "payload of "+id) }

func TestAssembler(t *testing.T) {
	t.Parallel()
	three := txn(0x20, 5, ev("a"), ev("b"), ev("c"))
	for _, c := range []struct {
		name   string
		resume replication.Resume
		feed   [][]byte
		want   string
	}{
		{
			"rows of the outbox only, ordinals of everything",
			replication.Resume{},
			txn(0x20, 5, row(other, "x"), ev("a"), change(events), row(foreign, "y", ""), ev("b"), remove(events), truncate(other), ev("c")),
			"20/a.2,b.5,c.8=28",
		},
		{"no row of ours is an idle position", replication.Resume{}, txn(0x20, 5, row(other, "x"), row(foreign, "y", "")), "~28"},
		{"an empty transaction is an idle position", replication.Resume{}, txn(0x20, 5), "~28"},
		{"dropped: commit below the floor", replication.Resume{Floor: 0x28}, three, ""},
		{"dropped: floor one above the commit", replication.Resume{Floor: 0x21}, three, ""},
		{"kept: commit exactly at the floor", replication.Resume{Floor: 0x20}, three, "20/a.1,b.2,c.3=28"},
		{"an empty transaction below the floor is nothing", replication.Resume{Floor: 0x28}, txn(0x20, 5), ""},
		{"cut after the first", replication.Resume{Floor: 0x10, CutLSN: 0x20, CutOrd: 1}, three, "20/b.2,c.3=28"},
		{"cut after the last tells the end", replication.Resume{Floor: 0x10, CutLSN: 0x20, CutOrd: 3}, three, "20/=28"},
		{
			"cut counts what is not ours",
			replication.Resume{Floor: 0x10, CutLSN: 0x20, CutOrd: 3},
			txn(0x20, 5, change(other), ev("a"), row(foreign, "y", ""), ev("b")), "20/b.4=28",
		},
		{"cut right behind its predecessor", replication.Resume{Floor: 0x20, CutLSN: 0x20, CutOrd: 2}, three, "20/c.3=28"},
		{
			"cut concerns its transaction only",
			replication.Resume{Floor: 0x10, CutLSN: 0x20, CutOrd: 2},
			append(three, txn(0x30, 6, ev("d"))...), "20/c.3=28 30/d.1=38",
		},
		{
			"messages, types and origins count nothing",
			replication.Resume{},
			txn(0x20, 5, []byte("O\x00\x00\x00\x00\x00\x00\x00\x01up\x00"), []byte("M\x01"), []byte("Y\x00\x00\x00\x01s\x00t\x00"), ev("a")), "20/a.1=28",
		},
		{"a message outside a transaction is passed over", replication.Resume{}, append([][]byte{[]byte("M\x00")}, txn(0x20, 5, ev("a"))...), "20/a.1=28"},
		{
			"altered table makes a new part",
			replication.Resume{},
			txn(0x20, 5, ev("a"), relation(events, "outbox", "events", "id", "payload", "key"), row(events, "b", "", ""), ev2("c")),
			"20/a.1+ 20/b.2,c.3=28",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a := assemble(t, c.resume)
			a.feed(c.feed...)
			if got := a.script(); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func ev2(id string) []byte { return row(events, id, "", "key") }

// TestAssemblerSeq: the index among our rows goes on through what was cut off,
// so a consumer sees the numbers that an uncut transaction has.
func TestAssemblerSeq(t *testing.T) {
	t.Parallel()
	a := assemble(t, replication.Resume{Floor: 0x10, CutLSN: 0x20, CutOrd: 3})
	a.feed(txn(0x20, 5, ev("a"), row(other, "x"), ev("b"), change(other), ev("c"), ev("d"))...)
	var got [][2]uint64
	for _, r := range a.out[0].Rows {
		got = append(got, [2]uint64{r.Ord, r.Seq})
	}
	if d := cmp.Diff([][2]uint64{{5, 3}, {6, 4}}, got); d != "" {
		t.Errorf("ordinal and index: -want +got\n%s", d)
	}
}

func TestAssemblerParts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		rows   int
		size   int
		want   []int // rows of each part
		resume uint64
	}{
		{"one below the limit", replication.PartRows - 1, 1, []int{replication.PartRows - 1}, 0},
		{"exactly the limit ends with an empty part", replication.PartRows, 1, []int{replication.PartRows, 0}, 0},
		{"one above", replication.PartRows + 1, 1, []int{replication.PartRows, 1}, 0},
		{"by bytes", 5, replication.PartBytes / 2, []int{2, 2, 1}, 0},
		{"a row larger than a part", 2, 3 * replication.PartBytes, []int{1, 1, 0}, 0},
		{"after a cut", replication.PartRows + 10, 1, []int{replication.PartRows, 3}, 7},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a := assemble(t, replication.Resume{Floor: 0x10, CutLSN: 0x20, CutOrd: c.resume})
			a.feed(begin(0x20, noon, 5))
			for i := range c.rows {
				a.feed(row(events, fmt.Sprint(i), strings.Repeat("x", c.size)))
			}
			a.feed(commit(0x20, 0x28, noon))
			var got []int
			next := c.resume
			for i, tx := range a.out {
				got = append(got, len(tx.Rows))
				if last := i == len(a.out)-1; tx.Last != last || (tx.EndLSN != 0) != last {
					t.Errorf("part %d of %d: last=%t end=%s", i, len(a.out), tx.Last, tx.EndLSN)
				}
				if tx.XID != 5 || tx.CommitLSN != 0x20 || !tx.CommitTime.Equal(noon) {
					t.Errorf("part %d is of %s at %s", i, tx, tx.CommitTime)
				}
				if (tx.Relation == nil) != (len(tx.Rows) == 0) {
					t.Errorf("part %d has %d rows and relation %v", i, len(tx.Rows), tx.Relation)
				}
				for _, r := range tx.Rows {
					next++
					if r.Ord != next || string(r.Values[0]) != fmt.Sprint(next-1) || len(r.Values[1]) != c.size {
						t.Fatalf("row %d came as %q with ordinal %d", next, r.Values[0], r.Ord)
					}
				}
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("rows of the parts: -want +got\n%s", d)
			}
		})
	}
}

// TestAssemblerCopies: rows outlive the buffer that the message came in.
func TestAssemblerCopies(t *testing.T) {
	t.Parallel()
	a := assemble(t, replication.Resume{})
	buf := make([]byte, 0, 256)
	for _, m := range txn(0x20, 5, ev("a"), ev("b"), ev("c")) {
		buf = append(buf[:0], m...)
		a.feed(buf)
		clear(buf)
	}
	if got := a.script(); got != "20/a.1,b.2,c.3=28" {
		t.Errorf("after the buffer was reused: %s", got)
	}
}

// TestAssemblerBytes: what a row costs beside its data counts as well, or a
// queue of small rows would hold ten times what it was allowed.
func TestAssemblerBytes(t *testing.T) {
	t.Parallel()
	columns := make([]string, 30)
	for i := range columns {
		columns[i] = fmt.Sprint("c", i)
	}
	a := assemble(t, replication.Resume{})
	a.feed(relation(events, "outbox", "events", columns...), begin(0x20, noon, 5), insert(events, make([][]byte, 30)...), commit(0x20, 0x28, noon))
	const slices = 30 * 24 // of the values, on a machine of 64 bits
	if got := a.out[0].Bytes; got < slices {
		t.Errorf("a row of 30 NULLs counts %d bytes and takes more than %d", got, slices)
	}
}

func TestAssemblerIdle(t *testing.T) {
	t.Parallel()
	a := assemble(t, replication.Resume{Floor: 0x10})
	keepalive := func(end pglogrepl.LSN, ask bool) {
		t.Helper()
		if err := a.Keepalive(end, ask); err != nil {
			t.Fatal(err)
		}
	}
	keepalive(0x0f, true) // below the floor: Postgres is still sending again
	keepalive(0x10, false)
	keepalive(0x14, true)
	a.feed(begin(0x20, noon, 5), ev("a"))
	keepalive(0x1f, true) // the transaction is under way and not handed over
	a.feed(commit(0x20, 0x28, noon))
	keepalive(0x28, false)
	if got, want := a.script(), "~10 ~14 20/a.1=28 ~28"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if a.out[0].ReplyAsked || !a.out[1].ReplyAsked {
		t.Errorf("reply asked for: %t, %t", a.out[0].ReplyAsked, a.out[1].ReplyAsked)
	}
}

// TestAssemblerIdleBeforeCut: while the transaction that was cut has not come
// again, a position below it would say that nothing is cut. Decoding a large
// transaction takes longer than half of wal_sender_timeout, so the server does
// ask in between.
func TestAssemblerIdleBeforeCut(t *testing.T) {
	t.Parallel()
	a := assemble(t, replication.Resume{Floor: 0x10, CutLSN: 0x20, CutOrd: 2, WitnessLSN: 0x20, WitnessXID: 5})
	for _, end := range []pglogrepl.LSN{0x10, 0x18, 0x20} {
		if err := a.Keepalive(end, true); err != nil {
			t.Fatal(err)
		}
	}
	a.feed(txn(0x14, 4, row(other, "x"))...) // what Postgres decides to send of others
	a.feed(txn(0x20, 5, ev("a"), ev("b"), ev("c"))...)
	if err := a.Keepalive(0x28, true); err != nil {
		t.Fatal(err)
	}
	if got, want := a.script(), "20/c.3=28 ~28"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAssemblerWitness(t *testing.T) {
	t.Parallel()
	expect := replication.Resume{Floor: 0x28, WitnessLSN: 0x20, WitnessXID: 5}
	keepalive := []byte{0} // stands for a keepalive at 0x30
	for _, c := range []struct {
		name   string
		resume replication.Resume
		feed   [][]byte
		halts  bool
	}{
		{"comes again", expect, append(txn(0x20, 5), txn(0x30, 6, ev("a"))...), false},
		{"comes again after others", expect, append(txn(0x18, 4), append(txn(0x20, 5), txn(0x30, 6, ev("a"))...)...), false},
		{"another one at its place", expect, txn(0x20, 9), true},
		{"left out", expect, txn(0x30, 6), true},
		{"left out before a keepalive", expect, append(txn(0x18, 4), keepalive), true},
		{"none is expected", replication.Resume{Floor: 0x28}, txn(0x30, 6), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a := assemble(t, c.resume)
			var err error
			for _, m := range c.feed {
				if m[0] == 0 {
					err = a.Keepalive(0x30, false)
				} else {
					err = a.Message(1, m)
				}
				if err != nil {
					break
				}
			}
			if c.halts != fault.Has(err, fault.HistoryMismatch) || !c.halts && err != nil {
				t.Errorf("got %v", err)
			}
			if c.halts && len(a.out) > 0 {
				t.Errorf("handed over before the halt: %s", a.script())
			}
		})
	}
}

func TestAssemblerHalts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		feed [][]byte
	}{
		{"garbage", [][]byte{[]byte("?")}},
		{"nothing", [][]byte{{}}},
		{"change outside a transaction", [][]byte{ev("a")}},
		{"truncate outside a transaction", [][]byte{truncate(events)}},
		{"commit without begin", [][]byte{commit(0x20, 0x28, noon)}},
		{"begin inside a transaction", [][]byte{begin(0x20, noon, 5), begin(0x30, noon, 6)}},
		{"commit of another transaction", [][]byte{begin(0x20, noon, 5), commit(0x30, 0x38, noon)}},
		{"end before the commit", [][]byte{begin(0x20, noon, 5), commit(0x20, 0x20, noon)}},
		{"relation never described", [][]byte{begin(0x20, noon, 5), row(99, "a")}},
		{"more values than columns", [][]byte{begin(0x20, noon, 5), row(events, "a", "b", "c")}},
		{"fewer values than columns", [][]byte{begin(0x20, noon, 5), row(events, "a")}},
		{"row cut short", [][]byte{begin(0x20, noon, 5), ev("a")[:12]}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a := assemble(t, replication.Resume{})
			var err error
			for _, m := range c.feed {
				err = a.Message(0x1234, m)
			}
			if !fault.Has(err, fault.WALDecode) {
				t.Errorf("got %v, want %s", err, fault.WALDecode.ID)
			}
			if err != nil && !strings.Contains(err.Error(), "0/") && !strings.Contains(err.Error(), "transaction") {
				t.Errorf("the position is missing: %v", err)
			}
			if len(a.out) > 0 {
				t.Errorf("handed over: %s", a.script())
			}
		})
	}
}
