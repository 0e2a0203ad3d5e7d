package doctor

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// machine is what was found out about the host or container.
type machine struct {
	names []lookup
	mu    sync.Mutex
}

// lookup is how a name was resolved.
type lookup struct {
	name string
	took time.Duration
	err  error
}

// gather asks the resolver for every name of the settings; the rest of the host
// is there at once.
func (m *machine) gather(ctx context.Context, w *world) {
	names := map[string]bool{}
	if conn, err := w.Settings.Database.Conn(); err == nil {
		for _, t := range tries(conn) {
			names[t.Host] = true
		}
	}
	if all, err := w.Settings.Kafka.Client.Endpoints(); err == nil {
		for _, e := range all {
			names[e.Host] = true
		}
	}
	var wg sync.WaitGroup
	for name := range names {
		if _, err := netip.ParseAddr(name); err == nil || name == "" || strings.HasPrefix(name, "/") || strings.HasPrefix(name, "@") {
			continue
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, catalogTime)
			defer cancel()
			since := time.Now()
			_, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
			m.mu.Lock()
			defer m.mu.Unlock()
			m.names = append(m.names, lookup{name, time.Since(since), err})
		})
	}
	wg.Wait()
}

// leastFiles is what a relay with a large cluster and some scrapers takes, with
// room.
const leastFiles = 1024

func hostChecks() []check {
	return []check{
		{Host, "open_files", "1024 files may be open", fromHost, []*fault.Code{fault.OpenFiles}, openFiles},
		{Host, "memory", "a memory limit has room for the largest row and a full group", fromHost, []*fault.Code{fault.MemoryLimit}, memory},
		{Host, "health_addr", "HEALTH_ADDR is free, or a relay answers there", fromHost, []*fault.Code{fault.HealthAddrTaken}, healthAddr},
		{Host, "secrets", "files with secrets are not for everybody", fromHost, []*fault.Code{fault.SecretReadable}, secrets},
		{Host, "certificates", "no certificate file of the settings ends within 14 days", fromHost, []*fault.Code{fault.ClientCertificate}, certificates},
		{Host, "resolver", "names resolve within a second", fromHost, []*fault.Code{fault.ResolverSlow}, resolver},
		{Host, "clock", "this clock and the database's are within 5 seconds", fromHost | fromPostgres, []*fault.Code{fault.ClockSkew}, clock},
	}
}

func openFiles(*world) answer {
	hard, ok := fileLimit()
	if !ok {
		return skip("not known here")
	}
	return judgeFiles(hard)
}

func judgeFiles(hard uint64) answer {
	if hard < leastFiles {
		return warn(fault.New(fault.OpenFiles, "%d files may be open", hard))
	}
	return pass("%d", hard)
}

// base is what a relay takes with nothing to do, with room.
const base = 64 << 20

func memory(w *world) answer {
	limit, ok := memoryLimit(w.Root)
	if !ok {
		return pass("no limit")
	}
	o := w.Settings.Outbox
	// A row is read, and stands in a record; a group is built while another one
	// is on its way.
	need := base + 2*int64(o.MaxRowBytes) + 2*int64(o.BatchMaxBytes)
	if limit < need {
		return warn(fault.New(fault.MemoryLimit, "the limit is %s, and with OUTBOX_MAX_ROW_BYTES=%s and OUTBOX_BATCH_MAX_BYTES=%s up to %s are needed",
			size(limit), o.MaxRowBytes, o.BatchMaxBytes, size(need)))
	}
	return pass("limit %s, up to %s needed", size(limit), size(need))
}

// memoryLimit is that of the control group, of either version.
func memoryLimit(root string) (int64, bool) {
	for _, name := range []string{"sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		text, err := os.ReadFile(filepath.Join("/", root, name))
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		// No limit is the word max, or in version 1 nearly all of an int64.
		return n, err == nil && n < 1<<50
	}
	return 0, false
}

func healthAddr(w *world) answer {
	addr := w.Settings.Health.Addr
	l, err := net.Listen("tcp", addr)
	switch {
	case err == nil:
		_ = l.Close()
		return pass("%s is free", addr)
	case !errors.Is(err, syscall.EADDRINUSE):
		return warn(fault.Wrap(err, fault.HealthAddrTaken, "HEALTH_ADDR %s", addr).WithWhy("it cannot be listened on from here"))
	case answersAsRelay(addr):
		return pass("a relay answers on %s", addr)
	}
	return warn(fault.New(fault.HealthAddrTaken, "another program listens on HEALTH_ADDR %s", addr))
}

// secrets looks at the files that the settings name.
func secrets(w *world) answer {
	s := w.Settings
	files := map[string]string{"KAFKA_TLS_KEY_FILE": s.Kafka.Client.TLS.KeyFile, "KAFKA_SASL_PASSWORD_FILE": s.Kafka.Client.SASL.PasswordFile}
	for name, path := range w.SecretFiles {
		files[name] = path
	}
	var a answer
	seen := 0
	for name, path := range files {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			continue // the settings say so
		}
		seen++
		if info.Mode().Perm()&0o004 != 0 && !projected(path) {
			a.add(Warn, name, fault.New(fault.SecretReadable, "%s %s has mode %04o", name, path, info.Mode().Perm()).WithFix("chmod 600 %s", path))
		}
	}
	return a.or("%d files", seen)
}

// projected tells whether Kubernetes has put the file there: its modes are for
// one container, in which there is no other user.
func projected(path string) bool {
	_, err := os.Lstat(filepath.Join(filepath.Dir(path), "..data"))
	return err == nil
}

const expirySoon = 14 * 24 * time.Hour

func certificates(w *world) answer {
	var a answer
	seen := 0
	t := w.Settings.Kafka.Client.TLS
	for _, f := range []struct{ name, path string }{{"KAFKA_TLS_CERT_FILE", t.CertFile}, {"KAFKA_TLS_CA_FILE", t.CAFile}} {
		first, err := earliest(f.path)
		if f.path == "" || err != nil {
			continue // the settings say so
		}
		seen++
		left := time.Until(first.NotAfter)
		about := fault.New(fault.ClientCertificate, "%s: %s ends %s", f.name, first.Subject, first.NotAfter.UTC().Format("2006-01-02"))
		switch {
		case left <= 0:
			a.add(Fail, f.name, about)
		case left < expirySoon:
			a.add(Warn, f.name, about)
		}
	}
	return a.or("%d files", seen)
}

// earliest is the certificate of a file that ends first.
func earliest(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var first *x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if first == nil || c.NotAfter.Before(first.NotAfter) {
			first = c
		}
	}
	if first == nil {
		return nil, fs.ErrInvalid
	}
	return first, nil
}

func resolver(w *world) answer {
	var a answer
	for _, l := range w.host.names {
		if l.took > w.Limits.Resolver {
			a.add(Warn, l.name, fault.New(fault.ResolverSlow, "%s took %s", l.name, age(l.took)))
		}
	}
	return a.or("%d names", len(w.host.names))
}

func clock(w *world) answer {
	skew := w.pg.skew.Abs()
	if skew-w.pg.skewError > w.Limits.ClockSkew {
		word := "ahead of"
		if w.pg.skew < 0 {
			word = "behind"
		}
		return warn(fault.New(fault.ClockSkew, "the clock of %s is %s %s this one", w.pg.at, age(skew), word))
	}
	return pass("the database's is off by %s", skew.Round(time.Millisecond))
}
