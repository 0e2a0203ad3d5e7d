package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/rights"
	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/rig"
)

// rightsWorld is a server and a broker where nobody may do anything that was
// not granted to them, and a relay with what doctor prints.
type rightsWorld struct {
	pg    *harness.PostgresServer
	db    *harness.Database
	k     *harness.KafkaServer
	adm   *kadm.Client // may do everything
	bin   string
	setup rights.Setup
	runs  int // of init, each with names of its own
}

// The principals have one password. Only the broker of this test knows them.
var principals = []string{"outbox-relay", "outbox-admin", "outbox-operator"}

const usersListener = "USERS"

func newRightsWorld(t *testing.T) *rightsWorld {
	t.Helper()
	rig.Real(t)
	users := ""
	for _, p := range principals {
		users += fmt.Sprintf(` user_%s="%s"`, p, harness.SecurePassword)
	}
	w := &rightsWorld{
		pg: harness.NewPostgres(t, harness.PostgresConfig{Settings: map[string]string{"max_replication_slots": "60"}}),
		k: harness.NewKafka(t, harness.KafkaConfig{
			Listeners: []harness.KafkaListener{{Name: usersListener, Protocol: "SASL_PLAINTEXT", Properties: map[string]string{
				"sasl.enabled.mechanisms": "PLAIN",
				"plain.sasl.jaas.config":  "org.apache.kafka.common.security.plain.PlainLoginModule required" + users + ";",
			}}},
			Properties: map[string]string{
				"authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
				"super.users":           "User:ANONYMOUS", // the listeners for checking
			},
		}),
		bin: harness.BuildRelay(t),
	}
	w.db = w.pg.NewDatabase(t)
	cl, err := w.k.Client()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	w.adm = kadm.NewClient(cl)
	w.setup = rights.Of(config.Default())
	w.setup.Database, w.setup.Name = w.db.Name, "orders"
	w.setup.Events, w.setup.Letters, w.setup.Checkpoint = "events", "events.dlq", "checkpoint"
	return w
}

// env is the environment of a principal and a role.
func (w *rightsWorld) env(s rights.Setup, principal, role string) map[string]string {
	as := func(role string) string {
		u, _ := url.Parse(w.db.URL())
		u.User = url.User(role)
		return u.String()
	}
	return map[string]string{
		"DATABASE_URL": as(role), "OUTBOX_ADMIN_URL": as(s.Admin), "KAFKA_BROKERS": w.k.Listener(usersListener),
		"KAFKA_SASL_MECHANISM": "plain", "KAFKA_SASL_USERNAME": principal, "KAFKA_SASL_PASSWORD": harness.SecurePassword,
		"OUTBOX_NAME": s.Name, "OUTBOX_SLOT": "slot_" + s.Name, "OUTBOX_PUBLICATION": s.Publication,
		"KAFKA_EVENTS_TOPIC": s.Events, "KAFKA_DLQ_TOPIC": s.Letters, "KAFKA_CHECKPOINT_TOPIC": s.Checkpoint,
		"OUTBOX_HEARTBEAT_INTERVAL": "1s", "LOG_FORMAT": "json", "KAFKA_BREAKER_RESET": "2s",
	}
}

func builder(principal string, a rights.ACL) *kadm.ACLBuilder {
	b := kadm.NewACLs().Allow(principal).AllowHosts()
	switch a.Resource {
	case rights.Topic:
		b = b.Topics(a.Name)
	case rights.TransactionalID:
		b = b.TransactionalIDs(a.Name)
	case rights.Cluster:
		b = b.Clusters()
	}
	op, err := kmsg.ParseACLOperation(a.Operation)
	if err != nil {
		panic(err) // the list has what kafka-acls.sh does not know
	}
	pattern := kadm.ACLPatternLiteral
	if a.Pattern == rights.Prefixed {
		pattern = kadm.ACLPatternPrefixed
	}
	return b.Operations(op).ResourcePatternType(pattern)
}

// allow grants, and returns when the broker goes by it.
func (w *rightsWorld) allow(ctx context.Context, t testing.TB, principal string, all ...rights.ACL) {
	t.Helper()
	for _, a := range all {
		if _, err := w.adm.CreateACLs(ctx, builder(principal, a)); err != nil {
			t.Fatal(err)
		}
		w.settled(ctx, t, principal, a, 1)
	}
}

// deny takes back.
func (w *rightsWorld) deny(ctx context.Context, t testing.TB, principal string, a rights.ACL) {
	t.Helper()
	if _, err := w.adm.DeleteACLs(ctx, builder(principal, a)); err != nil {
		t.Fatal(err)
	}
	w.settled(ctx, t, principal, a, 0)
}

func (w *rightsWorld) settled(ctx context.Context, t testing.TB, principal string, a rights.ACL, want int) {
	t.Helper()
	for tick := time.Tick(5 * time.Millisecond); ; <-tick {
		all, err := w.adm.DescribeACLs(ctx, builder(principal, a))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, d := range all {
			n += len(d.Described)
		}
		if n == want {
			return
		}
	}
}

func accessOf(s rights.Setup, p rights.Purpose) rights.Access {
	i := slices.IndexFunc(s.Accesses(), func(a rights.Access) bool { return a.Purpose == p })
	return s.Accesses()[i]
}

var anyCode = regexp.MustCompile(`OBX-\d{4}|SQLSTATE \d{5}|42501`)

// command is what keeps a command from its end, or nothing.
func (w *rightsWorld) command(t testing.TB, env map[string]string, args ...string) []string {
	t.Helper()
	out := harness.RunRelay(t, w.bin, env, args...)
	if out.ExitCode == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s: exit %d\n%s%s", strings.Join(args, " "), out.ExitCode, out.Stdout, out.Stderr)}
}

// init initialises a relay of its own, with all that is granted but one ACL.
func (w *rightsWorld) init(ctx context.Context, t testing.TB, without *rights.ACL) []string {
	t.Helper()
	w.runs++
	s := w.setup
	s.Name, s.Publication = fmt.Sprintf("run%d", w.runs), fmt.Sprintf("pub%d", w.runs)
	s.Events, s.Letters, s.Checkpoint = s.Name+".events", s.Name+".dlq", s.Name+".checkpoint"
	access := accessOf(s, rights.Init)
	for i, a := range access.ACLs {
		if without == nil || accessOf(w.setup, rights.Init).ACLs[i] != *without {
			w.allow(ctx, t, access.Principal, a)
		}
	}
	return w.command(t, w.env(s, "outbox-admin", s.Relay), "init")
}

// A row that is larger than Kafka's default lets through, and that no
// compression makes small.
const largePayload = `(SELECT jsonb_build_object('x', string_agg(md5(random()::text), '')) FROM generate_series(1, 49152))`

// serve runs the relay until it has delivered an event, a large event and a
// large letter, and says what kept it from that.
func (w *rightsWorld) serve(ctx context.Context, t testing.TB) (trouble []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	reader, err := w.k.Client(kgo.ConsumeTopics(w.setup.Events, w.setup.Letters), kgo.ConsumeResetOffset(kgo.NewOffset().AfterMilli(time.Now().Add(-time.Millisecond).UnixMilli())),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(200*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	relay := harness.StartRelay(t, w.bin, w.env(w.setup, "outbox-relay", w.setup.Relay))
	defer func() { _ = relay.Kill() }()
	ids := map[string]string{}
	for name, row := range map[string]string{"event": `NULL, '{}'`, "large": `NULL, ` + largePayload, "letter": `'__denied', ` + largePayload} {
		var id string
		if err := w.superuser(ctx, t).QueryRow(ctx, `INSERT INTO outbox.events (aggregatetype, aggregateid, type, topic, payload) SELECT 'order', '1', 'Created', `+row+` RETURNING id::text`).Scan(&id); err != nil {
			t.Fatal(err)
		}
		ids[id] = name
	}
	for len(ids) > 0 {
		for _, line := range relay.Logs() {
			code, _ := line["code"].(string)
			if strings.HasPrefix(code, "OBX-30") || strings.HasPrefix(code, "OBX-50") || code == "OBX-4212" || line["msg"] == "halted" {
				return append(trouble, fmt.Sprintf("serve says %s: %v", code, line["error"]))
			}
		}
		poll, stop := context.WithTimeout(ctx, 300*time.Millisecond)
		fs := reader.PollFetches(poll)
		stop()
		if ctx.Err() != nil {
			return append(trouble, fmt.Sprintf("serve did not deliver %v\n%s", ids, relay.Output(20)))
		}
		for _, rec := range fs.Records() {
			headers := map[string]string{}
			for _, h := range rec.Headers {
				headers[h.Key] = string(h.Value)
			}
			name := ids[headers["id"]]
			switch {
			case name == "large" && rec.Topic != w.setup.Events:
				trouble = append(trouble, "OBX-2002: the large event became a letter")
			case name == "letter" && headers["outbox.dlq.payload_omitted"] != "":
				trouble = append(trouble, "OBX-2101: the letter lacks its payload")
			}
			delete(ids, headers["id"])
		}
	}
	env := w.env(w.setup, "outbox-relay", w.setup.Relay)
	delete(env, "OUTBOX_ADMIN_URL")
	for _, args := range [][]string{{"pause", "--reason", "rights"}, {"resume"}} {
		trouble = append(trouble, w.command(t, env, args...)...)
	}
	if err := relay.Term(); err != nil {
		t.Fatal(err)
	}
	if code, err := relay.Wait(ctx); err != nil || code != 0 {
		trouble = append(trouble, fmt.Sprintf("serve ended with %d (%v)", code, err))
	}
	return trouble
}

// forgetful makes the checkpoint topic one that forgets, which serve has to
// refuse.
func (w *rightsWorld) forgetful(ctx context.Context, t testing.TB) []string {
	t.Helper()
	w.topic(ctx, t, w.setup.Checkpoint, "cleanup.policy", "delete")
	defer w.topic(ctx, t, w.setup.Checkpoint, "cleanup.policy", "compact")
	relay := harness.StartRelay(t, w.bin, w.env(w.setup, "outbox-relay", w.setup.Relay))
	defer func() { _ = relay.Kill() }()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	line, err := relay.WaitLog(ctx, func(m map[string]any) bool { return m["msg"] == "halted" || m["msg"] == "streaming" })
	if err != nil || line["code"] != "OBX-5006" {
		return []string{fmt.Sprintf("OBX-5006 is not said: %v %v", line, err)}
	}
	return nil
}

func (w *rightsWorld) topic(ctx context.Context, t testing.TB, name, key, value string) {
	t.Helper()
	if _, err := w.adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: key, Value: &value}}, name); err != nil {
		t.Fatal(err)
	}
}

func (w *rightsWorld) superuser(ctx context.Context, t testing.TB) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(ctx, w.db.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// operate does what a person does with letters and events. It takes the id of a
// letter that is open.
func (w *rightsWorld) operate(t testing.TB, letter string) (trouble []string) {
	t.Helper()
	env := w.env(w.setup, "outbox-operator", rights.OperatorRole)
	for _, args := range [][]string{
		{"dlq", "list"},
		{"dlq", "replay", "--to", w.setup.Events, letter},
		{"checkpoint", "show"},
		{"verify", "--data", "--wait", "5s"},
	} {
		if trouble = append(trouble, w.command(t, env, args...)...); len(trouble) > 0 {
			return trouble
		}
	}
	return nil
}

// examined is what doctor and verify miss for lack of a right.
func (w *rightsWorld) examined(t testing.TB) (trouble []string) {
	t.Helper()
	env := w.env(w.setup, "outbox-relay", w.setup.Relay)
	var said struct {
		Steps, Checks []struct{ Step, Check, Target, Status, Code, Finding string }
	}
	for _, args := range [][]string{{"verify", "-o", "json"}, {"doctor", "--only", "kafka,rights", "-o", "json"}} {
		out := harness.RunRelay(t, w.bin, env, args...)
		if err := json.Unmarshal([]byte(out.Stdout), &said); err != nil {
			t.Fatalf("%v: %v\n%s%s", args, err, out.Stdout, out.Stderr)
		}
	}
	for _, s := range said.Steps {
		// What others than the relay need is a warning of verify.
		if s.Status == "fail" || s.Code == "OBX-5004" && s.Step != "rights" || strings.Contains(s.Finding, "may not be looked at") {
			trouble = append(trouble, fmt.Sprintf("verify: %+v", s))
		}
	}
	for _, s := range said.Checks {
		if s.Code == "OBX-5004" || strings.Contains(s.Finding, "needs D") {
			trouble = append(trouble, fmt.Sprintf("doctor: %+v", s))
		}
	}
	return trouble
}

// sample is whether the n-th removal is part of this run.
func sample(n int) bool { return os.Getenv("OUTBOX_RIGHTS_ALL") != "" || n%4 == 0 }

// The roles and ACLs that doctor prints are enough for everything, and each of
// them is missed by name.
func TestRightsAreExactlyEnough(t *testing.T) {
	ctx := within(t, 15*time.Minute)
	w := newRightsWorld(t)
	s := w.setup
	w.db.Exec(t, `REVOKE CONNECT ON DATABASE "`+s.Database+`" FROM PUBLIC`)
	for _, r := range s.Roles() {
		w.db.Exec(t, r.Create())
		for _, g := range r.Grants {
			if !g.AfterInit {
				w.db.Exec(t, g.SQL)
			}
		}
	}
	w.db.Exec(t, "CREATE ROLE shop_app LOGIN IN ROLE "+rights.WriterRole)
	for _, a := range s.Accesses() {
		w.allow(ctx, t, a.Principal, a.ACLs...)
	}
	well := func(what string, trouble []string) {
		t.Helper()
		if len(trouble) > 0 {
			t.Fatalf("with all that is printed, %s: %s", what, strings.Join(trouble, "; "))
		}
	}
	well("init", w.command(t, w.env(s, "outbox-admin", s.Relay), "init"))
	for _, r := range s.Roles() {
		for _, g := range r.Grants {
			if g.AfterInit {
				w.db.Exec(t, g.SQL)
			}
		}
	}
	w.topic(ctx, t, s.Events, "max.message.bytes", "3145728")
	well("init of another", w.init(ctx, t, nil))
	well("serve", w.serve(ctx, t))
	well("serve, again", w.serve(ctx, t))
	well("a topic that forgets", w.forgetful(ctx, t))
	letters := w.openLetters(ctx, t)
	well("the operator", w.operate(t, letters()))
	well("doctor", w.examined(t))
	well("the writer", w.write(ctx, "shop_app"))
	well("the monitor", w.watch(ctx, t))

	missed := func(name string, trouble []string) {
		t.Helper()
		switch {
		case len(trouble) == 0:
			t.Errorf("without %s everything works", name)
		case !anyCode.MatchString(strings.Join(trouble, " ")) && !strings.Contains(trouble[0], "needs D") && !strings.Contains(trouble[0], "may not be looked at"):
			t.Errorf("without %s there is no name for it: %v", name, trouble)
		default:
			first, _, _ := strings.Cut(trouble[0], "\n")
			t.Logf("without %s: %s", name, first)
		}
	}
	n := 0
	for _, access := range s.Accesses() {
		for _, a := range access.ACLs {
			if n++; !sample(n) {
				continue
			}
			name := fmt.Sprintf("%s: %s on %s %s", access.Purpose, a.Operation, a.Resource, a.Name)
			if access.Purpose == rights.Init {
				missed(name, w.init(ctx, t, &a))
				continue
			}
			w.deny(ctx, t, access.Principal, a)
			switch access.Purpose {
			case rights.Relay:
				trouble := w.serve(ctx, t)
				if a.Name == s.Checkpoint && a.Operation == "DescribeConfigs" {
					trouble = append(trouble, w.forgetful(ctx, t)...)
				}
				missed(name, trouble)
			case rights.Operator:
				missed(name, w.operate(t, letters()))
			case rights.Doctor:
				missed(name, w.examined(t))
			}
			w.allow(ctx, t, access.Principal, a)
		}
	}
	for _, r := range s.Roles() {
		for _, g := range r.Grants {
			if n++; !sample(n) {
				continue
			}
			w.db.Exec(t, g.Undo)
			switch r.Purpose {
			case rights.Init:
				missed(g.SQL, w.init(ctx, t, nil))
			case rights.Relay:
				missed(g.SQL, w.serve(ctx, t))
			case rights.Writer:
				missed(g.SQL, w.write(ctx, "shop_app"))
			case rights.Operator:
				missed(g.SQL, w.operate(t, letters()))
			case rights.Monitor:
				missed(g.SQL, w.watch(ctx, t))
			}
			w.db.Exec(t, g.SQL)
		}
	}
	well("serve, in the end", w.serve(ctx, t))
}

// openLetters has the relay make letters, and hands out the id of another one
// each time.
func (w *rightsWorld) openLetters(ctx context.Context, t testing.TB) func() string {
	t.Helper()
	rows, err := w.superuser(ctx, t).Query(ctx, `INSERT INTO outbox.events (aggregatetype, aggregateid, type, topic, payload)
	  SELECT 'order', i::text, 'Created', '__denied', `+largePayload+` FROM generate_series(1, 24) i RETURNING id::text`)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if trouble := w.serve(ctx, t); len(trouble) > 0 { // what it waits for comes behind them
		t.Fatal(trouble)
	}
	return func() string {
		t.Helper()
		if len(ids) == 0 {
			t.Fatal("no letter is left")
		}
		id := ids[0]
		ids = ids[1:]
		return id
	}
}

// as runs a statement as somebody who logs in.
func (w *rightsWorld) as(ctx context.Context, role, sql string, into ...any) error {
	u, err := url.Parse(w.db.URL())
	if err != nil {
		return err
	}
	u.User = url.User(role)
	conn, err := pgx.Connect(ctx, u.String())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return conn.QueryRow(ctx, sql).Scan(into...)
}

// write inserts a row as a service does.
func (w *rightsWorld) write(ctx context.Context, role string) []string {
	var n int
	err := w.as(ctx, role, `WITH new AS (INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload) VALUES ('order', '1', 'Created', '{}')) SELECT 1`, &n)
	if err != nil {
		return []string{err.Error()}
	}
	return nil
}

// watch looks at a session of the relay's role, as slot inspect does.
func (w *rightsWorld) watch(ctx context.Context, t testing.TB) []string {
	t.Helper()
	env := w.env(w.setup, "outbox-relay", w.setup.Relay)
	relay := harness.StartRelay(t, w.bin, env)
	defer func() { _ = relay.Kill() }()
	rig.AwaitStreaming(t, relay)
	view := maps.Clone(env)
	u, _ := url.Parse(view["DATABASE_URL"])
	u.User = url.User(rights.MonitorRole)
	view["DATABASE_URL"] = u.String()
	if trouble := w.command(t, view, "slot", "inspect"); len(trouble) > 0 {
		return trouble
	}
	var n int
	if err := w.as(ctx, rights.MonitorRole, `SELECT (SELECT count(*) FROM outbox.relay_status) + (SELECT count(*) FROM outbox.relay_slots)`, &n); err != nil {
		return []string{err.Error()}
	}
	var hidden bool
	err := w.as(ctx, rights.MonitorRole, `SELECT bool_or(backend_start IS NULL) FROM pg_stat_activity WHERE application_name = 'outbox-relay slot_orders'`, &hidden)
	switch {
	case err != nil:
		return []string{err.Error()}
	case hidden:
		return []string{"42501: since when the holder streams is hidden"}
	}
	return nil
}
