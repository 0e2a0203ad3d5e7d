package check

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"debug/elf"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

const dockerfile = "deploy/Dockerfile"

// stages returns the stages of the Dockerfile, which is read as Docker reads it.
func stages(t *testing.T) []instructions.Stage {
	t.Helper()
	parsed, err := parser.Parse(strings.NewReader(text(t, dockerfile)))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range parsed.Warnings {
		t.Errorf("%s: %s", dockerfile, w.Short)
	}
	all, _, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func commands[C instructions.Command](s instructions.Stage) []C {
	var all []C
	for _, c := range s.Commands {
		if c, ok := c.(C); ok {
			all = append(all, c)
		}
	}
	return all
}

func TestDockerfile(t *testing.T) {
	t.Parallel()
	all := stages(t)
	build, last := all[0], all[len(all)-1]
	if len(all) != 2 || last.BaseName != "scratch" {
		t.Fatalf("%d stages, the last from %s", len(all), last.BaseName)
	}
	version := regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(text(t, "go.mod"))[1]
	if want := "ARG GO_VERSION=" + version + "\n"; !strings.Contains(text(t, dockerfile), want) {
		t.Errorf("go.mod wants %s", want)
	}
	if len(commands[*instructions.RunCommand](last)) > 0 || len(commands[*instructions.AddCommand](last)) > 0 || len(commands[*instructions.AddCommand](build)) > 0 {
		t.Error("the last stage has nothing that could run a command, and nothing is fetched by ADD")
	}
	var targets []string
	for _, c := range commands[*instructions.CopyCommand](last) {
		if c.From != "build" {
			t.Errorf("%s comes from %q", c.SourcePaths, c.From)
		}
		targets = append(targets, c.DestPath)
	}
	slices.Sort(targets)
	if want := []string{"/etc/ssl/certs/ca-certificates.crt", "/usr/local/bin/outbox-relay"}; !slices.Equal(targets, want) {
		t.Errorf("the image has %q, want %q", targets, want)
	}
	users := commands[*instructions.UserCommand](last)
	uid, _, _ := strings.Cut(users[len(users)-1].User, ":")
	if n, err := strconv.Atoi(uid); err != nil || n == 0 {
		t.Errorf("USER %s: Kubernetes cannot tell that it is not root", uid)
	}
	entry := commands[*instructions.EntrypointCommand](last)[0]
	if entry.PrependShell || !slices.Equal(entry.CmdLine, []string{"/usr/local/bin/outbox-relay"}) {
		t.Errorf("ENTRYPOINT %q", entry.CmdLine)
	}
	if cmd := commands[*instructions.CmdCommand](last)[0]; cmd.PrependShell || !slices.Equal(cmd.CmdLine, []string{"serve"}) {
		t.Errorf("CMD %q", cmd.CmdLine)
	}
	var environ []string
	for _, c := range commands[*instructions.EnvCommand](last) {
		for _, kv := range c.Env {
			environ = append(environ, kv.String())
		}
	}
	judge(t, "the image", append(environ, "DATABASE_URL=postgres://u@h/d", "KAFKA_BROKERS=a:9092"))
	check := commands[*instructions.HealthCheckCommand](last)[0].Health
	if want := []string{"CMD", "/usr/local/bin/outbox-relay", "probe", "live"}; !slices.Equal(check.Test, want) {
		t.Errorf("HEALTHCHECK %q", check.Test)
	}
	labels := map[string]string{}
	for _, c := range commands[*instructions.LabelCommand](last) {
		for _, kv := range c.Labels {
			labels[kv.Key] = kv.Value
		}
	}
	for _, want := range []string{"title", "description", "source", "documentation", "version", "revision"} {
		if labels["org.opencontainers.image."+want] == "" {
			t.Errorf("there is no label %s", want)
		}
	}
}

// buildContext copies what the builder would be sent.
func buildContext(t *testing.T) string {
	t.Helper()
	patterns, err := ignorefile.ReadAll(strings.NewReader(text(t, dockerfile+".dockerignore")))
	if err != nil {
		t.Fatal(err)
	}
	ignored, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if d.IsDir() {
			if rel == ".git" || rel == "bin" {
				return filepath.SkipDir
			}
			return nil
		}
		if no, err := ignored.MatchesOrParentMatches(rel); err != nil || no {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(rel)), 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, rel), data, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// imageRoot is the file system of the image: the commands of the Dockerfile are run on
// what the builder would be sent, and the binary is put where it says, with the given
// certificates.
func imageRoot(t *testing.T, certificates []byte) string {
	t.Helper()
	build := stages(t)[0]
	runs := commands[*instructions.RunCommand](build)
	script := strings.Join(runs[len(runs)-1].CmdLine, " ")
	if !strings.Contains(script, "-o /out/outbox-relay") {
		t.Fatalf("the last RUN is no build: %s", script)
	}
	image := t.TempDir()
	if err := os.Chmod(image, 0o755); err != nil { // another user is to run in it
		t.Fatal(err)
	}
	binary := filepath.Join(image, "usr/local/bin/outbox-relay")
	cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.ReplaceAll(script, "/out/outbox-relay", binary))
	cmd.Dir = buildContext(t)
	cmd.Env = append(os.Environ(), "VERSION=v9.9.9", "COMMIT=abcdef0", "TARGETOS=linux", "TARGETARCH=")
	for _, c := range commands[*instructions.EnvCommand](build) {
		for _, kv := range c.Env {
			cmd.Env = append(cmd.Env, kv.String())
		}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the build of the image: %v\n%s", err, out)
	}
	if err := os.MkdirAll(filepath.Join(image, "etc/ssl/certs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(image, "etc/ssl/certs/ca-certificates.crt"), certificates, 0o644); err != nil {
		t.Fatal(err)
	}
	return image
}

// inside prepares a command in the image, as its user.
func inside(t *testing.T, image string, environ []string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/usr/local/bin/outbox-relay", args...)
	cmd.Err = nil // it is looked for in the new root, not here
	cmd.Dir, cmd.Env = "/", environ
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: image, Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
	return cmd
}

func output(t *testing.T, cmd *exec.Cmd) (int, string) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// There is no Docker here, and none is needed to know that the image works: its root
// is made by the Dockerfile's own commands, and the program runs in it.
func TestImageRuns(t *testing.T) {
	t.Parallel()
	authority, listener := tlsListener(t)
	image := imageRoot(t, authority)

	binary, err := elf.Open(filepath.Join(image, "usr/local/bin/outbox-relay"))
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	if libs, err := binary.ImportedLibraries(); err != nil || len(libs) > 0 {
		t.Errorf("it needs %q (%v)", libs, err)
	}
	for _, p := range binary.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("it needs a loader: it is not static")
		}
	}
	if os.Getuid() != 0 {
		t.Skip("only root can change the root") // CI has both kinds of user
	}

	status, out := output(t, inside(t, image, nil, "version"))
	if status != 0 || !strings.Contains(out, "v9.9.9") || !strings.Contains(out, "abcdef0") {
		t.Errorf("version: %d\n%s", status, out)
	}

	// The certificates are found where the image has them: with the authority in them
	// the handshake with a listener that is no broker is passed, else it is refused.
	verify := []string{"KAFKA_BROKERS=" + listener, "KAFKA_TLS=true", "KAFKA_CONNECTION_TIMEOUT=3s"}
	if _, out := output(t, inside(t, image, verify, "verify")); !strings.Contains(out, "OBX-50") || strings.Contains(out, "OBX-5028") {
		t.Errorf("with the authority among the certificates:\n%s", out)
	}
	if err := os.WriteFile(filepath.Join(image, "etc/ssl/certs/ca-certificates.crt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, out := output(t, inside(t, image, verify, "verify")); !strings.Contains(out, "OBX-5028") {
		t.Errorf("without certificates the handshake is passed:\n%s", out)
	}

	// It serves, its health check can ask it, and it stops.
	port := freePort(t)
	environ := []string{"DATABASE_URL=postgres://u@127.0.0.1:1/d", "KAFKA_ENABLED=false", "HEALTH_ADDR=:" + port}
	serve := inside(t, image, environ, "serve")
	var log bytes.Buffer
	serve.Stderr = &log
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	var probed string
	for limit := time.Now().Add(30 * time.Second); time.Now().Before(limit); time.Sleep(100 * time.Millisecond) {
		if status, probed = output(t, inside(t, image, environ, "probe", "live")); status == 0 {
			break
		}
	}
	if status != 0 {
		t.Errorf("probe: %d\n%s", status, probed)
	}
	if err := serve.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := serve.Wait(); err != nil {
		t.Errorf("stop: %v\n%s", err, &log)
	}
	left, err := os.ReadDir(filepath.Join(image, "tmp"))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it wrote to its root: %v %v", left, err)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// pair is a certificate of 127.0.0.1 that signs itself, and its key. It is always the
// same one.
var pair = func() func(*testing.T) (cert, key []byte) {
	var once sync.Once
	var cert, key []byte
	var err error
	return func(t *testing.T) ([]byte, []byte) {
		t.Helper()
		once.Do(func() { cert, key, err = newPair() })
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
}()

func newPair() (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), nil
}

// tlsListener takes handshakes and says nothing. It returns the certificate of its
// authority.
func tlsListener(t *testing.T) (authority []byte, addr string) {
	t.Helper()
	cert, key := pair(t)
	both, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{both}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.CopyN(io.Discard, conn, 1) // the handshake, and the end
			}()
		}
	}()
	return cert, l.Addr().String()
}
