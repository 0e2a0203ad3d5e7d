package page

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/rig"
)

// browser is a headless Chromium, spoken to over WebDriver. It is small on
// purpose: the tests ask the page by script, and type by keys.
type browser struct {
	base string // of the session
	cmd  *exec.Cmd
	dir  string
	read chan struct{} // closed at the end of the driver's output
	http http.Client
}

var (
	shared     *browser
	sharedErr  error
	sharedOnce sync.Once
)

// open returns the browser of this package, begun with the first test that wants
// it. Where there is none the test is skipped, unless it was said to be required.
func open(t *testing.T) *browser {
	t.Helper()
	rig.Real(t)
	for _, name := range []string{"chromium", "chromedriver"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("OUTBOX_TEST_REQUIRE") != "" || os.Getenv("CI") != "" {
				t.Fatalf("%s is not installed: apt-get install chromium chromium-driver", name)
			}
			if path := os.Getenv("OUTBOX_TEST_SKIPPED"); path != "" {
				if f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644); err == nil {
					fmt.Fprintf(f, "%s: no Chromium with its driver\n", t.Name())
					f.Close()
				}
			}
			t.Skipf("%s is not installed", name)
		}
	}
	sharedOnce.Do(func() { shared, sharedErr = start() })
	if sharedErr != nil {
		t.Fatal(sharedErr)
	}
	shared.visit(t, "about:blank")
	shared.logs(t, "browser") // what came before is not this test's
	shared.logs(t, "performance")
	shared.cdp(t, "Emulation.setEmulatedMedia", `{"features":[{"name":"prefers-color-scheme","value":"light"},{"name":"prefers-reduced-motion","value":"reduce"}]}`)
	shared.size(t, 1280, 900)
	return shared
}

var started = regexp.MustCompile(`started successfully on port (\d+)`)

func start() (*browser, error) {
	dir, err := os.MkdirTemp("", "outbox-page-")
	if err != nil {
		return nil, err
	}
	b := &browser{dir: dir, cmd: exec.Command("chromedriver", "--port=0"), read: make(chan struct{}), http: http.Client{Timeout: time.Minute, Transport: &http.Transport{}}}
	b.cmd.Env = append(os.Environ(), "HOME="+dir)
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := b.cmd.Start(); err != nil {
		return nil, err
	}
	port := ""
	lines := bufio.NewScanner(out)
	for port == "" && lines.Scan() {
		if m := started.FindStringSubmatch(lines.Text()); m != nil {
			port = m[1]
		}
	}
	if port == "" {
		return nil, fmt.Errorf("chromedriver did not say its port")
	}
	go func() {
		defer close(b.read)
		_, _ = io.Copy(io.Discard, out)
	}()
	harness.AtEnd(b.close)
	var session struct{ SessionID string }
	b.base = "http://127.0.0.1:" + port
	args, _ := json.Marshal([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--user-data-dir=" + filepath.Join(dir, "profile"),
	})
	err = b.do("POST", "/session", `{"capabilities":{"alwaysMatch":{"goog:loggingPrefs":{"browser":"ALL","performance":"ALL"},"goog:chromeOptions":{"args":`+string(args)+`}}}}`, &session)
	if err != nil {
		return nil, fmt.Errorf("begin a session: %w", err)
	}
	b.base += "/session/" + session.SessionID
	return b, nil
}

func (b *browser) close() error {
	_ = b.do("DELETE", "", "", nil) // ends the browser; the driver ends in any case
	_ = b.cmd.Process.Kill()
	<-b.read
	_ = b.cmd.Wait() // killed, as was just asked
	b.http.CloseIdleConnections()
	return os.RemoveAll(b.dir)
}

// do sends a command. What fails is told by the answer.
func (b *browser) do(method, path, body string, into any) error {
	req, err := http.NewRequest(method, b.base+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := b.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct{ Value json.RawMessage }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %.600s", method, path, answer.Value)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer.Value, into)
}

func (b *browser) must(t *testing.T, method, path string, body, into any) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.do(method, path, string(text), into); err != nil {
		t.Fatal(err)
	}
}

func (b *browser) visit(t *testing.T, url string) {
	t.Helper()
	b.must(t, "POST", "/url", map[string]any{"url": url}, nil)
}

// eval runs the body of a function in the page and returns what it returns.
func (b *browser) eval(t *testing.T, script string, args ...any) any {
	t.Helper()
	if args == nil {
		args = []any{}
	}
	var v any
	b.must(t, "POST", "/execute/sync", map[string]any{"script": script, "args": args}, &v)
	return v
}

// await returns when the expression is true in the page. The page itself is
// watched, at each of its changes.
func (b *browser) await(t *testing.T, expression string) {
	t.Helper()
	b.must(t, "POST", "/timeouts", map[string]any{"script": 20000}, nil)
	var v any
	script := `const done = arguments[0], ok = () => { try { return Boolean(` + expression + `); } catch { return false; } };
		if (ok()) return done(true);
		const end = (v) => { o.disconnect(); clearInterval(t); done(v); };
		const o = new MutationObserver(() => { if (ok()) end(true); });
		o.observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
		const t = setInterval(() => { if (ok()) end(true); }, 200);`
	if err := b.do("POST", "/execute/async", encode(map[string]any{"script": script, "args": []any{}}), &v); err != nil {
		t.Fatalf("waiting for %s: %v\nthe page says:\n%v", expression, err, b.eval(t, "return document.body.innerText"))
	}
}

func encode(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

func (b *browser) text(t *testing.T, selector string) string {
	t.Helper()
	s, _ := b.eval(t, "return document.querySelector(arguments[0])?.innerText ?? 'there is no ' + arguments[0]", selector).(string)
	return s
}

// The keys that the tests press, as WebDriver names them.
const (
	tab   = "\ue004"
	enter = "\ue007"
)

// keys presses keys, one after another, wherever the focus is.
func (b *browser) keys(t *testing.T, keys string) {
	t.Helper()
	var actions []map[string]any
	for _, k := range keys {
		actions = append(actions, map[string]any{"type": "keyDown", "value": string(k)}, map[string]any{"type": "keyUp", "value": string(k)})
	}
	b.must(t, "POST", "/actions", map[string]any{"actions": []any{map[string]any{"type": "key", "id": "keyboard", "actions": actions}}}, nil)
}

// cdp sends a command of the DevTools protocol.
func (b *browser) cdp(t *testing.T, command, params string) map[string]any {
	t.Helper()
	var v map[string]any
	b.must(t, "POST", "/goog/cdp/execute", map[string]any{"cmd": command, "params": json.RawMessage(params)}, &v)
	return v
}

func (b *browser) size(t *testing.T, width, height int) {
	t.Helper()
	b.cdp(t, "Emulation.setDeviceMetricsOverride", fmt.Sprintf(`{"width":%d,"height":%d,"deviceScaleFactor":1,"mobile":%t}`, width, height, width < 600))
}

func (b *browser) scheme(t *testing.T, scheme string) {
	t.Helper()
	b.cdp(t, "Emulation.setEmulatedMedia", `{"features":[{"name":"prefers-color-scheme","value":"`+scheme+`"},{"name":"prefers-reduced-motion","value":"reduce"}]}`)
}

// shoot keeps a picture of the whole page where OUTBOX_PAGE_SHOTS says.
func (b *browser) shoot(t *testing.T, name string) {
	t.Helper()
	dir := os.Getenv("OUTBOX_PAGE_SHOTS")
	if dir == "" {
		return
	}
	v := b.cdp(t, "Page.captureScreenshot", `{"format":"png","captureBeyondViewport":true}`)
	data, _ := v["data"].(string)
	png, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
		t.Fatal(err)
	}
}

type logEntry struct {
	Level   string
	Message string
}

func (b *browser) logs(t *testing.T, kind string) []logEntry {
	t.Helper()
	var all []logEntry
	b.must(t, "POST", "/se/log", map[string]any{"type": kind}, &all)
	return all
}

// clean fails the test if the page said something to the console, or asked a host
// that is not ours.
func (b *browser) clean(t *testing.T, allowed ...string) {
	t.Helper()
	for _, e := range b.logs(t, "browser") {
		expected := false
		for _, a := range allowed {
			expected = expected || strings.Contains(e.Message, a)
		}
		if !expected && e.Level != "INFO" && e.Level != "DEBUG" {
			t.Errorf("console: %s %s", e.Level, e.Message)
		}
	}
	for _, e := range b.logs(t, "performance") {
		var m struct {
			Message struct {
				Method string
				Params struct{ Request struct{ URL string } }
			}
		}
		if json.NewDecoder(bytes.NewReader([]byte(e.Message))).Decode(&m) != nil || m.Message.Method != "Network.requestWillBeSent" {
			continue
		}
		if url := m.Message.Params.Request.URL; !strings.HasPrefix(url, "http://127.0.0.1:") && !strings.HasPrefix(url, "data:") && !strings.HasPrefix(url, "chrome") {
			t.Errorf("the page asked %s", url)
		}
	}
}
