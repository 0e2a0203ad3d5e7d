package replication

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// Switch is where the history left a timeline.
type Switch struct {
	Timeline int32
	At       pglogrepl.LSN
}

// identify reads who the server is and how its timeline came about. Both are
// replication commands, so they must come before the stream starts.
func identify(ctx context.Context, conn *pgconn.PgConn, into *State) error {
	id, err := pglogrepl.IdentifySystem(ctx, conn)
	if err != nil {
		return classify(err, fault.Unclassified, "identify system")
	}
	into.SystemID, into.Timeline, into.FlushLSN, into.Database = id.SystemID, id.Timeline, id.XLogPos, id.DBName
	into.Switches = nil
	if id.Timeline == 1 {
		return nil
	}
	h, err := pglogrepl.TimelineHistory(ctx, conn, id.Timeline)
	if err != nil {
		return classify(err, fault.Unclassified, "read history of timeline %d", id.Timeline)
	}
	into.Switches, err = ParseHistory(h.Content)
	if err != nil {
		return fault.Wrap(err, fault.WALDecode, "read history of timeline %d", id.Timeline)
	}
	return nil
}

// ParseHistory reads a timeline history file: one line for each ancestor, its
// number, where it was left and why.
func ParseHistory(content []byte) ([]Switch, error) {
	var out []Switch
	for _, line := range splitLines(content) {
		if len(line) < 2 {
			return nil, fmt.Errorf("history line with %d fields", len(line))
		}
		tli, err := strconv.ParseInt(line[0], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("history line: %w", err)
		}
		at, err := pglogrepl.ParseLSN(line[1])
		if err != nil {
			return nil, fmt.Errorf("history line: %w", err)
		}
		out = append(out, Switch{Timeline: int32(tli), At: at})
	}
	return out, nil
}

// splitLines returns the fields of each line that has any and is no comment.
func splitLines(content []byte) [][]string {
	var out [][]string
	sc := bufio.NewScanner(bytes.NewReader(content))
	for sc.Scan() {
		if f := strings.Fields(sc.Text()); len(f) > 0 && f[0][0] != '#' {
			out = append(out, f)
		}
	}
	return out
}
