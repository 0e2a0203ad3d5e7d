package checkpoint_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
)

// go test ./checkpoint -update writes the golden records of the present
// format. Those of older formats are never written again.
var record = flag.Bool("update", false, "write the golden records of the present format")

type lsn = pglogrepl.LSN

var noon = time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)

// full is a checkpoint in which every field is set.
func full() checkpoint.Checkpoint {
	return checkpoint.Checkpoint{
		Seq: 42, SessionID: "9f1c", SessionNo: 7,
		Pos:    checkpoint.Position{Timeline: 3, CommitLSN: 0x1_0000_0010, EndLSN: 0x1_0000_0040},
		LastTx: checkpoint.Transaction{CommitLSN: 0x1_0000_0010, EndLSN: 0x1_0000_0040, XID: 742, CommitTime: noon},
		Source: checkpoint.Source{
			SystemID: "7300000000000000001", Database: "shop", Slot: "outbox_relay", Publication: "outbox_pub",
			ClusterID: "MkU3OEVBNTcwNTJENDM2Qk", TopicID: "AAAAAAAAAAAAAAAAAAAAAQ",
		},
		OptionsHash: "00ff", Rows: 5, RowsTotal: 1 << 60, LettersTotal: 2,
		Host: "relay-1", PID: 99, Version: "1.0.0", Time: noon, Override: "accept-gap 0/10:0/20",
	}
}

func cut() checkpoint.Checkpoint {
	c := full()
	c.Pos = checkpoint.Position{Timeline: 3, CommitLSN: 0x2_0000_0000, EndLSN: 0x1_0000_0040, Ordinal: 200_000}
	c.LastTx = checkpoint.Transaction{CommitLSN: 0x2_0000_0000, XID: 743, CommitTime: noon}
	c.Override = ""
	return c
}

// parked is a checkpoint of a relay that holds keys back.
func parked() checkpoint.Checkpoint {
	c := full()
	c.Parked = []checkpoint.ParkedKey{
		{Hash: "3mUNYfW9FmqR-Mzs", Timeline: 3, LSN: 0x1_0000_0008, Ordinal: 2, Letters: 3, Partition: 1, Offset: 17},
		{Hash: "Tw5w-ZMIPemllJBM", Timeline: 3, LSN: 0x1_0000_0010, Ordinal: 9, Letters: 1, Offset: -1},
	}
	return c
}

// first is what init writes: nothing was published yet.
func first() checkpoint.Checkpoint {
	c := full()
	c.Seq, c.SessionNo, c.Rows, c.RowsTotal, c.LettersTotal, c.OptionsHash, c.Override = 1, 1, 0, 0, 0, "", ""
	c.Pos = checkpoint.Position{Timeline: 1, EndLSN: 0x10}
	c.LastTx = checkpoint.Transaction{}
	return c
}

// TestGolden: a record of a format that was ever released is read for ever,
// and the present format does not change by accident.
func TestGolden(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]checkpoint.Checkpoint{"v1-full": full(), "v1-cut": cut(), "v1-first": first(), "v2-parked": parked(), "v3-recovery": recovering()} {
		rec, err := want.Record(topic, "orders")
		if err != nil {
			t.Fatal(err)
		}
		if rec.Topic != topic || rec.Partition != 0 || string(rec.Key) != "outbox-orders/lane/0" {
			t.Errorf("%s: topic %s, partition %d, key %s", name, rec.Topic, rec.Partition, rec.Key)
		}
		golden(t, name, rec.Value)
		got, err := checkpoint.Decode(&kgo.Record{Value: read(t, name)})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: -want +got\n%s", name, d)
		}
	}

	barrier := checkpoint.Barrier{SessionID: "9f1c", Host: "relay-1", PID: 99, Version: "1.0.0", Time: noon}
	rec, err := barrier.Record(topic, "orders")
	if err != nil || string(rec.Key) != "outbox-orders/session" {
		t.Fatalf("key %s, %v", rec.Key, err)
	}
	golden(t, "v1-barrier", rec.Value)
	if got, err := checkpoint.DecodeBarrier(&kgo.Record{Value: read(t, "v1-barrier")}); err != nil || got != barrier {
		t.Errorf("barrier: got %+v, %v", got, err)
	}

	intent := checkpoint.Intent{Source: full().Source, Time: noon}
	rec, err = intent.Record(topic, "orders")
	if err != nil || string(rec.Key) != "outbox-orders/init" {
		t.Fatalf("key %s, %v", rec.Key, err)
	}
	golden(t, "v1-intent", rec.Value)
	if got, err := checkpoint.DecodeIntent(&kgo.Record{Value: read(t, "v1-intent")}); err != nil || got != intent {
		t.Errorf("intent: got %+v, %v", got, err)
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	if *record {
		if err := os.WriteFile(filepath.Join("testdata", name+".json"), append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(string(read(t, name)), string(got)); d != "" {
		t.Errorf("%s: -golden +got\n%s", name, d)
	}
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return []byte(strings.TrimSuffix(string(b), "\n"))
}

// TestTimesAreUTC: whoever wrote it, wherever.
func TestTimesAreUTC(t *testing.T) {
	t.Parallel()
	c := full()
	c.Time, c.LastTx.CommitTime = noon.In(time.FixedZone("", 3600)), noon.In(time.FixedZone("", -3600))
	rec, err := c.Record(topic, "orders")
	if err != nil {
		t.Fatal(err)
	}
	got, err := checkpoint.Decode(rec)
	if err != nil {
		t.Fatal(err)
	}
	if got.Time != noon || got.LastTx.CommitTime != noon {
		t.Errorf("got %s and %s", got.Time, got.LastTx.CommitTime)
	}
}

// TestInvariants: what breaks one is neither written nor read.
func TestInvariants(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		why   string
		spoil func(*checkpoint.Checkpoint)
		// wire does the same to the record of the sound one.
		from, to string
	}{
		{"no seq", "seq is zero", func(c *checkpoint.Checkpoint) { c.Seq = 0 }, `"seq":42`, `"seq":0`},
		{"no session", "session is empty", func(c *checkpoint.Checkpoint) { c.SessionID = "" }, `"9f1c"`, `""`},
		{"no timeline", "timeline is 0", func(c *checkpoint.Checkpoint) { c.Pos.Timeline = 0 }, `"timeline":3`, `"timeline":0`},
		{"negative timeline", "timeline is -1", func(c *checkpoint.Checkpoint) { c.Pos.Timeline = -1 }, `"timeline":3`, `"timeline":-1`},
		{"no end", "end_lsn is zero", func(c *checkpoint.Checkpoint) { c.Pos.EndLSN = 0 }, `"end_lsn":"1/40"`, `"end_lsn":"0/0"`},
		{"commit after its end", "commit 1/10 after its end 1/8", func(c *checkpoint.Checkpoint) { c.Pos.EndLSN = 0x1_0000_0008 }, `"end_lsn":"1/40"},"last`, `"end_lsn":"1/8"},"last`},
		{"cut before its predecessor", "cut at 1/10 before the end 1/40", func(c *checkpoint.Checkpoint) { c.Pos.Ordinal = 1 }, `"end_lsn":"1/40"},"last`, `"end_lsn":"1/40","ordinal":1},"last`},
		{"no system", "source is incomplete", func(c *checkpoint.Checkpoint) { c.Source.SystemID = "" }, `"7300000000000000001"`, `""`},
		{"no slot", "source is incomplete", func(c *checkpoint.Checkpoint) { c.Source.Slot = "" }, `"outbox_relay"`, `""`},
		{"no database", "source is incomplete", func(c *checkpoint.Checkpoint) { c.Source.Database = "" }, `"shop"`, `""`},
		{"a parked key without letters", `parked key "x" is incomplete`, func(c *checkpoint.Checkpoint) {
			c.Parked = []checkpoint.ParkedKey{{Hash: "x", LSN: 1, Ordinal: 1}}
		}, `"v":1`, `"v":2,"parked":[{"key":"x","timeline":1,"commit_lsn":"0/1","ordinal":1,"letters":0,"offset":0}]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			bad := full()
			c.spoil(&bad)
			if _, err := bad.Record(topic, "orders"); err == nil || !strings.Contains(err.Error(), c.why) {
				t.Errorf("written: %v, want %q", err, c.why)
			}
			wire := strings.Replace(string(read(t, "v1-full")), c.from, c.to, 1)
			if wire == string(read(t, "v1-full")) {
				t.Fatalf("%s is not in the golden record", c.from)
			}
			if _, err := checkpoint.Decode(&kgo.Record{Value: []byte(wire), Offset: 17}); err == nil || !strings.Contains(err.Error(), c.why) || !strings.Contains(err.Error(), "17") {
				t.Errorf("read: %v, want %q and the offset", err, c.why)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	sound := string(read(t, "v1-full"))
	for _, c := range []struct{ name, value, why string }{
		{"a newer format", strings.Replace(sound, `"v":1`, `"v":4`, 1), "format version 4"},
		{"no format", strings.Replace(sound, `"v":1`, `"w":1`, 1), "format version 0"},
		{"a tombstone", "", "unexpected end"},
		{"half a record", sound[:len(sound)/2], "unexpected end"},
		{"two records", sound + sound, "after top-level value"},
		{"an LSN that is none", strings.Replace(sound, `"1/40"`, `"here"`, 1), "LSN"},
		{"a number in place of an LSN", strings.Replace(sound, `"commit_lsn":"1/10"`, `"commit_lsn":16`, 1), "cannot unmarshal"},
		{"a seq beyond 64 bits", strings.Replace(sound, `"seq":42`, `"seq":18446744073709551616`, 1), "cannot unmarshal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if _, err := checkpoint.Decode(&kgo.Record{Value: []byte(c.value)}); err == nil || !strings.Contains(err.Error(), c.why) {
				t.Errorf("got %v, want %q", err, c.why)
			}
		})
	}
	for _, v := range []string{"", "{}", `{"v":4}`, "[]"} {
		if _, err := checkpoint.DecodeBarrier(&kgo.Record{Value: []byte(v)}); err == nil {
			t.Errorf("barrier %q was read", v)
		}
		if _, err := checkpoint.DecodeIntent(&kgo.Record{Value: []byte(v)}); err == nil {
			t.Errorf("intent %q was read", v)
		}
	}
}

func TestKindOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		key, name string
		kind      checkpoint.Kind
	}{
		{"outbox-orders/lane/0", "orders", checkpoint.Lane},
		{"outbox-orders/session", "orders", checkpoint.Session},
		{"outbox-orders/init", "orders", checkpoint.Init},
		{"outbox-a-b.c_1/lane/0", "a-b.c_1", checkpoint.Lane},
		{"outbox-orders/lane/1", "", checkpoint.Unknown},
		{"outbox-orders/lane/00", "", checkpoint.Unknown},
		{"outbox-orders", "", checkpoint.Unknown},
		{"orders/lane/0", "", checkpoint.Unknown},
		{"", "", checkpoint.Unknown},
	} {
		if kind, name := checkpoint.KindOf([]byte(c.key)); kind != c.kind || name != c.name {
			t.Errorf("%q: got %d of %q, want %d of %q", c.key, kind, name, c.kind, c.name)
		}
	}
}

func TestPosition(t *testing.T) {
	t.Parallel()
	// In order, each before the next.
	order := []checkpoint.Position{
		{Timeline: 1, EndLSN: 0x10},
		{Timeline: 1, EndLSN: 0x10, CommitLSN: 0x20, Ordinal: 1},
		{Timeline: 1, EndLSN: 0x10, CommitLSN: 0x20, Ordinal: 2},
		{Timeline: 1, EndLSN: 0x28, CommitLSN: 0x20},
		{Timeline: 1, EndLSN: 0x30, CommitLSN: 0x20}, // idle
		{Timeline: 1, EndLSN: 0x30, CommitLSN: 0x30, Ordinal: 1},
	}
	for i, p := range order {
		for j, q := range order {
			if got := p.Compare(q); got < 0 != (i < j) || got > 0 != (i > j) {
				t.Errorf("%s against %s: %d", p, q, got)
			}
		}
	}
	if got := order[2].String() + " " + order[3].String(); got != "1:0/20+2 1:0/28" {
		t.Errorf("printed as %s", got)
	}
}

// writable: in UTC a time may leave the years that JSON has.
func writable(t time.Time) bool { y := t.UTC().Year(); return y >= 0 && y <= 9999 }

// FuzzDecode: no bytes make the codec panic, and what it accepts it writes in
// a form that it reads as the same.
func FuzzDecode(f *testing.F) {
	for _, name := range []string{"full", "cut", "first", "barrier", "intent"} {
		f.Add(read(f, "v1-"+name))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		rec := &kgo.Record{Value: value}
		if b, err := checkpoint.DecodeBarrier(rec); err == nil && writable(b.Time) {
			if _, err := b.Record(topic, "orders"); err != nil {
				t.Fatalf("barrier was read and cannot be written: %v", err)
			}
		}
		c, err := checkpoint.Decode(rec)
		if err != nil || !writable(c.Time) || !writable(c.LastTx.CommitTime) {
			return
		}
		once, err := c.Record(topic, "orders")
		if err != nil {
			t.Fatalf("was read and cannot be written: %v", err)
		}
		again, err := checkpoint.Decode(once)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, once.Value)
		}
		if again.Pos != c.Pos || again.Seq != c.Seq || again.Source != c.Source {
			t.Fatalf("%+v became %+v", c, again)
		}
		twice, err := again.Record(topic, "orders")
		if err != nil {
			t.Fatal(err)
		}
		if string(once.Value) != string(twice.Value) {
			t.Fatalf("not stable\n%s\n%s", once.Value, twice.Value)
		}
	})
}

// recovering is a checkpoint in the midst of a recovery, which began anew.
func recovering() checkpoint.Checkpoint {
	c := cut()
	c.Rebased = true
	c.Recovery = &checkpoint.Recovery{ID: "5b0e", Code: "OBX-3103", Began: noon, From: full().Pos, At: noon, Rows: 5, Letters: 2}
	return c
}

// What a recovery leaves behind is no checkpoint, and has a key of its own.
func TestAudit(t *testing.T) {
	t.Parallel()
	audit := checkpoint.Audit{
		ID: "5b0e", Code: "OBX-3103", Text: "slot outbox_relay was lost", Accepted: []string{"unknown=3"}, State: "done",
		From: "3:1/40", To: "3:2/0", Rows: 7, Letters: 1, LeftOut: 3, Host: "relay-1", PID: 99, Version: "1.0.0", Began: noon, Time: noon,
	}
	rec, err := audit.Record(topic, "orders")
	if err != nil {
		t.Fatal(err)
	}
	if kind, _ := checkpoint.KindOf(rec.Key); string(rec.Key) != "outbox-orders/audit/5b0e" || kind != checkpoint.Unknown {
		t.Errorf("key %s is of kind %d", rec.Key, kind)
	}
	golden(t, "v1-audit", rec.Value)
}
