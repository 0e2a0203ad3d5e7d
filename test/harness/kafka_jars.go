package harness

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"
)

// kafkaVersion names the folder of the jars; the pom says what is in it.
const kafkaVersion = "4.3.1"

// minJava is what Kafka 4 brokers need.
const minJava = 17

// repoRoot returns the folder of go.mod: tests run in their package's folder.
func repoRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find go.mod above the working folder")
		}
		dir = parent
	}
}

// cacheDir is where downloads stay between runs. A user without a home (a
// service account) still gets a place of its own.
func cacheDir() string {
	if dir := os.Getenv("OUTBOX_TEST_CACHE"); dir != "" {
		return dir
	}
	if dir, err := os.UserCacheDir(); err == nil {
		return filepath.Join(dir, "outbox-relay")
	}
	return filepath.Join(os.TempDir(), "outbox-relay-"+strconv.Itoa(os.Getuid()))
}

var javaVersion = regexp.MustCompile(`version "(\d+)`)

// findJava returns a java that is new enough for a broker.
func findJava(ctx context.Context) (string, error) {
	java := "java"
	if home := os.Getenv("JAVA_HOME"); home != "" {
		java = filepath.Join(home, "bin", "java")
	}
	path, err := exec.LookPath(java)
	if err != nil {
		return "", &MissingError{What: "java", Err: err}
	}
	out, err := exec.CommandContext(ctx, path, "-version").CombinedOutput()
	if err != nil {
		return "", &MissingError{What: "java", Err: fmt.Errorf("%s -version: %w: %s", path, err, out)}
	}
	found := javaVersion.FindSubmatch(out)
	if found == nil {
		return "", &MissingError{What: "java", Err: fmt.Errorf("%s -version says no version: %s", path, out)}
	}
	if major, _ := strconv.Atoi(string(found[1])); major < minJava {
		return "", &MissingError{What: fmt.Sprintf("java %d", minJava), Err: fmt.Errorf("%s is version %d", path, major)}
	}
	return path, nil
}

// kafkaJars returns the folder of Kafka's jars and has Maven fill it the first
// time. Test packages run as parallel processes, hence the file lock; a run
// that was killed half way leaves no marker and is done again.
func kafkaJars(ctx context.Context) (string, error) {
	root, err := repoRoot()
	if err != nil {
		return "", err
	}
	pom := filepath.Join(root, "test", "kafka", "pom.xml")
	text, err := os.ReadFile(pom)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	want := hex.EncodeToString(sum[:])

	libs := filepath.Join(cacheDir(), "kafka-"+kafkaVersion)
	marker := filepath.Join(libs, ".complete")
	if have, err := os.ReadFile(marker); err == nil && string(have) == want {
		return libs, nil
	}

	if err := os.MkdirAll(filepath.Dir(libs), 0o755); err != nil {
		return "", err
	}
	unlock, err := lockFile(ctx, libs+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if have, err := os.ReadFile(marker); err == nil && string(have) == want {
		return libs, nil // another process did it while this one waited
	}

	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return "", &MissingError{What: "maven", Err: err}
	}
	// Jars of another pom would stay on the class path beside the new ones.
	if err := os.RemoveAll(libs); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, mvn, "-q", "-B", "-f", pom, "dependency:copy-dependencies", "-DoutputDirectory="+libs)
	if out, err := cmd.CombinedOutput(); err != nil {
		// Most often a machine without a network: as good as not installed.
		return "", &MissingError{What: "kafka", Err: fmt.Errorf("copy the jars with maven: %w: %s", err, tail(out, 20))}
	}
	if err := os.WriteFile(marker, []byte(want), 0o644); err != nil {
		return "", err
	}
	return libs, nil
}

// lockFile takes an exclusive lock that the kernel gives back if this process
// dies. Another process cannot be waited for with a deadline, so it is asked
// for again.
func lockFile(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", name, context.Cause(ctx))
		}
	}
}
