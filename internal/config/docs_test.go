package config

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const page = "../../docs/config.md"

// exampleFile is in the page, and is read by the test.
const exampleFile = `database_url: postgres://outbox_relay@db-1,db-2/shop
kafka:
  brokers: [broker-1:9094, broker-2:9094]
  sasl_mechanism: scram-sha-512
  sasl_username: outbox-relay
  sasl_password_file: /run/secrets/kafka
outbox_name: orders
log_level: info
`

const pageIntro = `# Settings

<!-- Written by: make docs. The tables are those of: outbox-relay config env. -->

Two settings are needed: ` + "`DATABASE_URL` and `KAFKA_BROKERS`" + `. All others have a
default. One setting has one name: ` + "`KAFKA_BROKERS`" + ` in the environment,
` + "`--kafka-brokers`" + ` on the command line, ` + "`kafka_brokers`" + ` in a file. A flag is stronger
than the environment, the environment is stronger than the file, and the file is
stronger than the default. An empty value is no value.

` + "`outbox-relay config show`" + ` prints every setting with its value and where that came
from; secrets are shown as a token. ` + "`outbox-relay config env`" + ` prints what this page
says, of the version at hand. All problems of a configuration are reported at once, and
nothing is started (exit status 2); ` + "`outbox-relay config validate`" + ` reports them without
starting anything. A variable that begins with ` + "`OUTBOX_` or `KAFKA_`" + ` and is no setting
gives a warning with the name that was probably meant, as does any other that is one
letter away from a setting; in a file an unknown key is an error, told with its line.
With ` + "`config validate --strict`" + ` warnings count as errors.

- **Durations** have a unit (` + "`10s`, `1m30s`" + `); a bare number is milliseconds.
- **Sizes** have a unit or are bytes: ` + "`16MiB`, `64KiB`, `1048576`" + `.
- **Switches** are ` + "`true` or `false`" + `; as a flag they may stand alone.
- **Secrets** can come from files: for each secret ` + "`NAME` there is `NAME_FILE`" + `, which
  names a file that holds it. It is read at start; ` + "`KAFKA_SASL_PASSWORD_FILE`" + ` at each
  authentication. Secrets are not taken from the command line, which every user of the
  machine can read, except the two URLs, which need not hold a password.
- **Without ` + "`DATABASE_URL`" + `** the variables ` + "`PGHOST`, `PGUSER`, `PGPASSWORD`" + ` and their kin
  count. With several hosts in the URL the relay uses the one that is the primary.

` + "`OUTBOX_CONFIG`" + ` names a file. Keys may be cut at any underscore:

` + "```yaml\n" + exampleFile + "```\n"

const pageEnd = `
Some settings are names that other programs rely on. Changing ` + "`OUTBOX_NAME`,\n`OUTBOX_SLOT`, `KAFKA_CHECKPOINT_TOPIC`" + ` or the database of a relay that has run is
refused at start, with a code: it would be another relay.

` + "`OUTBOX_TOPIC_TEMPLATE`" + ` knows ` + "`{aggregatetype}` and `{type}`" + `, and ` + "`${routedByValue}`" + ` as
another word for the first. ` + "`OUTBOX_COLUMNS`" + ` knows the column names of
[records.md](records.md#the-table); ` + "`created_at=`" + ` says that there is no such column.
`

func renderPage() string {
	var b strings.Builder
	b.WriteString(pageIntro)
	if err := WriteReferenceMarkdown(&b, Reference()); err != nil {
		panic(err)
	}
	b.WriteString(pageEnd)
	return b.String()
}

// docs/config.md has every setting, as the program knows it.
func TestSettingsPage(t *testing.T) {
	t.Parallel()
	got := renderPage()
	if *update {
		if err := os.WriteFile(page, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("docs/config.md is not what `make docs` writes (-file +settings):\n%s", diff)
	}
}

func TestExampleFileOfThePage(t *testing.T) {
	t.Parallel()
	var c Config
	f := &file{name: "example.yaml", entries: map[string]entry{}}
	f.parse([]byte(exampleFile), settingsOf(&c))
	if len(f.faults) > 0 {
		t.Errorf("%v", f.faults)
	}
	if len(f.entries) != strings.Count(exampleFile, ": ") {
		t.Errorf("read as %v", f.entries)
	}
}
