package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/test/load"
	"github.com/holdwall/outbox-relay/test/rig"
)

// checked is what `verify -o json` prints.
type checked struct {
	Result   string `json:"result"`
	Warnings int    `json:"warnings"`
	Failed   int    `json:"failed"`
	Skipped  int    `json:"skipped"`
	Steps    []struct {
		Step, Target, Status, Finding, Code, Why, Fix string
	} `json:"steps"`
}

func (c checked) of(step, status string) (n int) {
	for _, s := range c.Steps {
		if s.Step == step && s.Status == status {
			n++
		}
	}
	return n
}

func verifies(t testing.TB, r *rig.Rig, exit int, into any, args ...string) string {
	t.Helper()
	out := r.Command(t, append([]string{"verify", "-o", "json"}, args...)...)
	if out.ExitCode != exit {
		t.Fatalf("verify %v: exit %d, want %d\n%s%s", args, out.ExitCode, exit, out.Stdout, out.Stderr)
	}
	if err := json.Unmarshal([]byte(out.Stdout), into); err != nil {
		t.Fatalf("%v: %s", err, out.Stdout)
	}
	return out.Stdout
}

// Before init the checkpoint topic is missing and the probe has no place; after
// it all is well, but for the one broker that a test has. (S11)
func TestVerify(t *testing.T) {
	r := rig.New(t, rig.Config{})
	var before checked
	text := verifies(t, r, 4, &before)
	if before.Result != "fail" || before.of("probe", "skipped") != 1 || !strings.Contains(text, "outbox-relay init") {
		t.Errorf("before init: %s", text)
	}
	r.Init(t)
	var after checked
	text = verifies(t, r, 0, &after)
	for _, step := range []string{"resolve", "connect", "api", "metadata", "advertised", "transaction-timeout", "probe"} {
		if after.of(step, "pass") != 1 {
			t.Errorf("%s did not pass", step)
		}
	}
	if after.Result != "warn" || after.Failed != 0 || after.of("rights", "pass") != 5 || after.of("topic", "warn") != 4 {
		t.Errorf("after init: %s", text)
	}
	for _, s := range after.Steps {
		if s.Status == "warn" && s.Code != "OBX-5101" {
			t.Errorf("%+v", s)
		}
		if s.Step == "api" && !strings.Contains(s.Finding, "v4.") {
			t.Errorf("the release is not told: %s", s.Finding)
		}
	}
	out := r.Command(t, "verify")
	if out.ExitCode != 0 || !strings.Contains(out.Stdout, "committed and read back") || !strings.Contains(out.Stdout, "\nwarn: ") {
		t.Errorf("exit %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
	}
	t.Log("\n" + out.Stdout)
}

// verify beside a relay at work: nobody is fenced, nothing is lost, doubled or
// shown that should not be, and the session is the same to the end.
func TestVerifyDisturbsNobody(t *testing.T) {
	ctx := within(t, 2*time.Minute)
	r := rig.New(t, rig.Config{})
	r.Init(t)
	judge := r.Judge(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	stopLoad := r.Load(t, load.Config{Seed: 7, PoisonShare: 0.01})
	for range 8 {
		var c checked
		verifies(t, r, 0, &c)
		if c.of("probe", "pass") != 1 {
			t.Errorf("%+v", c)
		}
	}
	var d audited
	verifies(t, r, 0, &d, "--data")
	if d.Rows == 0 || d.Found != d.Rows || d.Undecided != 0 {
		t.Errorf("beside the load: %+v", d)
	}
	t.Logf("load: %s; beside it: %+v", stopLoad(), d)
	r.AwaitCaughtUp(ctx, t)
	for _, line := range relay.Logs() {
		if line["level"] == "error" || line["msg"] == "session ended" {
			t.Errorf("%v", line)
		}
	}
	judge.Verdict(t)
	d = audited{}
	verifies(t, r, 0, &d, "--data")
	if d.Rows == 0 || d.Found != d.Rows || d.Pending+d.Undecided+d.Expired+d.Deleted+d.Foreign != 0 || d.Letters == 0 {
		t.Errorf("at rest: %+v", d)
	}
	stop(ctx, t, relay)
}

// audited is what `verify --data -o json` prints.
type audited struct {
	Result    string `json:"result"`
	Rows      int    `json:"rows"`
	Found     int    `json:"rows_found"`
	Pending   int    `json:"rows_pending"`
	Undecided int    `json:"rows_undecided"`
	Expired   int    `json:"rows_expired"`
	Events    int    `json:"events"`
	Letters   int    `json:"letters"`
	Deleted   int    `json:"records_without_row"`
	Foreign   int    `json:"records_foreign"`
	Findings  []struct {
		Code     string
		Count    int
		Examples []struct{ ID, Detail string }
	} `json:"findings"`
}

func (a audited) codes() []string {
	var all []string
	for _, f := range a.Findings {
		all = append(all, f.Code)
	}
	return all
}

// What somebody did to the data is found, each by its own code, and what the
// relay has yet to do is not.
func TestVerifyData(t *testing.T) {
	ctx := within(t, 90*time.Second)
	r := rig.New(t, rig.Config{Partitions: 2})
	r.Init(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	r.Insert(t, 50)
	r.Database.Exec(t, `INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload, headers) VALUES ('order', 'k1', 'Created', '{}', '{"id": "mine"}')`)

	var a audited
	verifies(t, r, 0, &a, "--data") // it waits for the relay
	if a.Rows != 51 || a.Found != 51 || a.Letters != 1 || a.Events != 50 {
		t.Errorf("sound: %+v", a)
	}
	stop(ctx, t, relay)

	r.Insert(t, 5)
	a = audited{}
	verifies(t, r, 0, &a, "--data")
	if a.Rows != 56 || a.Found != 51 || a.Pending != 5 {
		t.Errorf("pending: %+v", a)
	}

	// The five are given up by hand, an event is written a second time by
	// somebody else, and a row is changed after it was published.
	r.Database.Exec(t, `SELECT pg_replication_slot_advance('`+r.Slot+`', pg_current_wal_lsn())`)
	line := halts(t, r, "OBX-4008")
	gap := gapNumbers.FindStringSubmatch(line["hint"].(string))
	relay = r.Serve(t, nil, "--accept-gap", gap[1]+":"+gap[2])
	rig.AwaitStreaming(t, relay)
	var copied *kgo.Record
	r.Each(ctx, t, r.Events, func(rec *kgo.Record) {
		if copied == nil {
			copied = rec
		}
	})
	cl, err := r.Kafka.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	again := &kgo.Record{Topic: copied.Topic, Key: copied.Key, Value: copied.Value, Headers: copied.Headers}
	if err := cl.ProduceSync(ctx, again).FirstErr(); err != nil {
		t.Fatal(err)
	}
	r.Database.Exec(t, `UPDATE outbox.events SET payload = '{"forged": true}' WHERE id = (SELECT id FROM outbox.events WHERE headers = '{}' ORDER BY created_at DESC OFFSET 10 LIMIT 1)`)
	r.Insert(t, 3)
	r.AwaitCaughtUp(ctx, t)
	a = audited{}
	text := verifies(t, r, 4, &a, "--data")
	if diff := cmp.Diff([]string{"OBX-4100", "OBX-4101", "OBX-4103"}, a.codes()); diff != "" || a.Result != "fail" {
		t.Fatalf("(-want +got):\n%s\n%s", diff, text)
	}
	for i, want := range []int{5, 1, 1} {
		if a.Findings[i].Count != want || len(a.Findings[i].Examples) != want {
			t.Errorf("%s: %d with %d examples, want %d", a.Findings[i].Code, a.Findings[i].Count, len(a.Findings[i].Examples), want)
		}
	}
	if id := header(copied, "id"); a.Findings[1].Examples[0].ID != id {
		t.Errorf("the doubled one is %s, want %s", a.Findings[1].Examples[0].ID, id)
	}
	if strings.Contains(text, "forged") {
		t.Error("a payload is shown")
	}
	out := r.Command(t, "verify", "--data", "--limit", "2")
	if out.ExitCode != 4 || !strings.Contains(out.Stdout, "and 3 more (--limit)") || !strings.Contains(out.Stdout, "fail: 3 kinds") {
		t.Errorf("exit %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
	}
	t.Log("\n" + out.Stdout)

	// Housekeeping is no finding, nor is what it leaves in the topics.
	r.Database.Exec(t, `DELETE FROM outbox.events WHERE payload::text LIKE '%forged%'`,
		`DELETE FROM outbox.events WHERE id::text IN (`+quoted(a.Findings[0].Examples)+`)`)
	a = audited{}
	verifies(t, r, 4, &a, "--data")
	if !slices.Equal(a.codes(), []string{"OBX-4101"}) || a.Deleted != 1 {
		t.Errorf("after the deletion: %+v", a)
	}
	stop(ctx, t, relay)
}

func quoted(all []struct{ ID, Detail string }) string {
	var ids []string
	for _, e := range all {
		ids = append(ids, "'"+e.ID+"'")
	}
	return strings.Join(ids, ",")
}

func header(rec *kgo.Record, name string) string {
	for _, h := range rec.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// A probe that was killed leaves a transaction open in the checkpoint topic, and
// the relay cannot read its own commits behind it until a broker ends it. It
// waits for that, in the same session.
func TestVerifyKilledInItsProbe(t *testing.T) {
	ctx := within(t, time.Minute)
	r := rig.New(t, rig.Config{})
	r.Init(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	cl, err := r.Kafka.Client(kgo.TransactionalID("outbox-"+r.Name+"-verify"), kgo.TransactionTimeout(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(ctx, &kgo.Record{Topic: r.Checkpoint, Key: []byte("verify/" + r.Name)}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	since := time.Now()
	r.Insert(t, 5)
	r.AwaitCaughtUp(ctx, t)
	t.Logf("caught up after %s", time.Since(since).Round(time.Millisecond))
	for _, line := range relay.Logs() {
		if line["level"] == "error" || line["msg"] == "session ended" {
			t.Errorf("%v", line)
		}
	}
	var d audited
	verifies(t, r, 0, &d, "--data")
	if d.Rows != 5 || d.Found != 5 {
		t.Errorf("%+v", d)
	}
	stop(ctx, t, relay)
}
