package harness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// PostgresConfig says how a server is made and started. The zero value is a
// server for functional tests.
type PostgresConfig struct {
	// Version is the major version; 0: whichever is installed.
	Version int
	// Fsync keeps fsync on. Off is right for all that a killed process can
	// show: the pages are in the kernel, and only a machine that dies loses
	// them. Benchmarks of commits may want it.
	Fsync bool
	// Settings are added to postgresql.conf and win over the defaults.
	Settings map[string]string
	// InitArgs are added to initdb, such as --wal-segsize=1.
	InitArgs []string
}

// maxSocketPath is the length of sun_path on the systems that have least.
const maxSocketPath = 103

// initCluster chooses the port and makes data and configuration.
func (pg *PostgresServer) initCluster(ctx context.Context) error {
	ports, err := freePorts(1)
	if err != nil {
		return err
	}
	pg.port = ports[0]
	pg.url = postgresURL(pg.port)

	args := append([]string{"-D", pg.data(), "--locale=C", "--encoding=UTF8", "--auth=trust", "--username=postgres", "--no-sync"}, pg.cfg.InitArgs...)
	if err := pg.run(ctx, "initdb", args...); err != nil {
		return err
	}
	conf, err := os.OpenFile(filepath.Join(pg.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = conf.WriteString(pg.settings())
	return errors.Join(err, conf.Close())
}

// run is start and wait for a program that ends by itself.
func (pg *PostgresServer) run(ctx context.Context, program string, args ...string) error {
	log, err := pg.log.open()
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := pg.as.command(pg.dir, filepath.Join(pg.bin, program), args...)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := start(cmd, syscall.SIGKILL)
	if err != nil {
		return err
	}
	if err := p.wait(ctx); err != nil {
		return errors.Join(err, p.kill())
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w\n%s", program, p.err, pg.log.last(20))
	}
	return nil
}

func (pg *PostgresServer) settings() string {
	fsync := "off"
	if pg.cfg.Fsync {
		fsync = "on"
	}
	sockets := pg.dir
	if len(sockets)+len("/.s.PGSQL.65535") > maxSocketPath {
		sockets = "" // none: the harness speaks TCP only
	}
	settings := map[string]string{
		"listen_addresses":        loopback,
		"port":                    strconv.Itoa(pg.port),
		"unix_socket_directories": sockets,
		"wal_level":               "logical",
		"max_wal_senders":         "30",
		"max_replication_slots":   "30",
		"max_connections":         "200",
		"fsync":                   fsync,
		"full_page_writes":        fsync, // torn pages need a dying machine too
		"log_line_prefix":         "%m [%p] %d ",
		"logging_collector":       "off",
		"timezone":                "UTC",
		// A background worker that no test is about.
		"max_logical_replication_workers": "0",
	}
	maps.Copy(settings, pg.cfg.Settings)

	var b strings.Builder
	b.WriteString("\n")
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s = '%s'\n", name, strings.ReplaceAll(settings[name], "'", "''"))
	}
	return b.String()
}
