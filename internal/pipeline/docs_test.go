package pipeline

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// snippet returns the block of docs/pipeline.md that holds a text.
func snippet(t *testing.T, language, has string) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/pipeline.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$").FindAllStringSubmatch(string(page), -1) {
		if m[1] == language && strings.Contains(m[2], has) {
			return m[2]
		}
	}
	t.Fatalf("docs/pipeline.md has no %s with %q", language, has)
	return ""
}

func python(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3")
	}
	return path
}

// The receiver of the page accepts what the page says, and nothing else.
func TestVerificationOfThePage(t *testing.T) {
	t.Parallel()
	header := strings.TrimSpace(snippet(t, "", "v1="))
	program := snippet(t, "python", "def verify") + fmt.Sprintf(`
header, body, keys = %q, b'{"total": "12.50"}', [b"whsec-example-key-0123456789"]
assert verify(header, body, keys, now=1795428900)
assert verify(header, body, [b"whsec-former-key-9876543210"], now=1795428900 + 300)
assert not verify(header, body, keys, now=1795428900 + 301)
assert not verify(header, body + b" ", keys, now=1795428900)
assert not verify(header, body, [b"another"], now=1795428900)
assert not verify(header.replace("t=1795428900", "t=1795428901"), body, keys, now=1795428900)
`, header)
	if out, err := exec.Command(python(t), "-c", program).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// The child of the page works as it stands.
func TestChildOfThePage(t *testing.T) {
	t.Parallel()
	file := t.TempDir() + "/handler.py"
	if err := os.WriteFile(file, []byte(snippet(t, "python", "for line in sys.stdin")), 0o600); err != nil {
		t.Fatal(err)
	}
	command := []string{python(t), "-u", file}
	r := rear(t, "", func(c *ChildConfig) { c.Command, c.Timeout = command, 20*time.Second })
	if err := r.Handle(t.Context(), ask("OrderPlaced")); err != nil {
		t.Error(err)
	}
	r.log.await(t, "OrderPlaced")
	ev := ask("OrderPlaced")
	ev.ContentType = "text/plain"
	if err := r.Handle(t.Context(), ev); fault.CodeOf(err) != fault.ChildFailed {
		t.Errorf("%v", err)
	}
}

// The event of the page has the keys that events have, and no others.
func TestEventOfThePage(t *testing.T) {
	t.Parallel()
	dec := json.NewDecoder(strings.NewReader(snippet(t, "json", `"seq": 7, "id"`)))
	dec.DisallowUnknownFields()
	var l line
	if err := dec.Decode(&l); err != nil {
		t.Error(err)
	}
	if _, err := parseReply([]byte(snippet(t, "json", `"status": "retry"`))); err != nil {
		t.Error(err)
	}
}
