package monitor

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type dashboard struct {
	UID        string  `json:"uid"`
	Title      string  `json:"title"`
	Schema     int     `json:"schemaVersion"`
	Panels     []panel `json:"panels"`
	Templating struct {
		List []struct {
			Name       string `json:"name"`
			Type       string `json:"type"`
			Definition string `json:"definition"`
		} `json:"list"`
	} `json:"templating"`
	Annotations struct {
		List []struct {
			Name string `json:"name"`
			Expr string `json:"expr"`
		} `json:"list"`
	} `json:"annotations"`
}

type panel struct {
	ID          int    `json:"id"`
	Type        string `json:"type"`
	Title       string `json:"title"`
	Description string `json:"description"`
	Datasource  struct {
		UID string `json:"uid"`
	} `json:"datasource"`
	Grid struct {
		H, W, X, Y int
	} `json:"gridPos"`
	FieldConfig struct {
		Defaults struct {
			Unit       string          `json:"unit"`
			Thresholds json.RawMessage `json:"thresholds"`
		} `json:"defaults"`
	} `json:"fieldConfig"`
	Options struct {
		YAxis struct {
			Unit string `json:"unit"`
		} `json:"yAxis"`
	} `json:"options"`
	Targets []struct {
		Expr string `json:"expr"`
	} `json:"targets"`
}

func dashboardOf(t *testing.T, name string) dashboard {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "deploy/grafana", name))
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return d
}

// foreign are metrics of other exporters, for the second dashboard alone.
func foreign(expr string) bool {
	return strings.Contains(expr, "pg_replication_slot") || strings.Contains(expr, "kminion_")
}

func TestDashboards(t *testing.T) {
	t.Parallel()
	c := exported(t)
	for file, uid := range map[string]string{"outbox-relay.json": "outbox-relay", "outbox-relay-around.json": "outbox-relay-around"} {
		d := dashboardOf(t, file)
		if d.UID != uid || d.Schema < 38 {
			t.Errorf("%s: uid %s, schema %d", file, d.UID, d.Schema)
		}
		variables := map[string]bool{}
		for _, v := range d.Templating.List {
			variables[v.Name] = true
			if v.Type == "query" {
				c.check(t, file+", variable "+v.Name, strings.Replace(v.Definition, ", "+v.Name+")", ")", 1))
			}
		}
		if !variables["datasource"] || !variables["job"] || uid == "outbox-relay" && !variables["instance"] {
			t.Errorf("%s: variables %v", file, variables)
		}
		for _, a := range d.Annotations.List {
			c.check(t, file+", annotation "+a.Name, a.Expr)
		}
		ids := map[int]bool{}
		for _, p := range d.Panels {
			if ids[p.ID] {
				t.Errorf("%s: two panels have the id %d", file, p.ID)
			}
			ids[p.ID] = true
			if p.Type == "row" {
				continue
			}
			where := file + ", panel " + p.Title
			if p.Datasource.UID != "${datasource}" {
				t.Errorf("%s: data source %s", where, p.Datasource.UID)
			}
			if p.Type != "heatmap" && (p.FieldConfig.Defaults.Unit == "" || p.FieldConfig.Defaults.Thresholds == nil) || p.Type == "heatmap" && p.Options.YAxis.Unit == "" {
				t.Errorf("%s: no unit or no thresholds", where)
			}
			if len(p.Description) < 20 || p.Grid.W == 0 || p.Grid.X+p.Grid.W > 24 || len(p.Targets) == 0 {
				t.Errorf("%s: description %q, at %+v, %d queries", where, p.Description, p.Grid, len(p.Targets))
			}
			for _, q := range p.Targets {
				switch {
				case foreign(q.Expr) && uid == "outbox-relay-around":
				case !strings.Contains(q.Expr, "$job"):
					t.Errorf("%s: not limited to the job: %s", where, q.Expr)
				default:
					c.check(t, where, q.Expr)
				}
			}
		}
		overlaps(t, file, d.Panels)
	}
}

// overlaps fails if two panels are in one place.
func overlaps(t *testing.T, file string, panels []panel) {
	t.Helper()
	for i, a := range panels {
		for _, b := range panels[:i] {
			if a.Grid.X < b.Grid.X+b.Grid.W && b.Grid.X < a.Grid.X+a.Grid.W && a.Grid.Y < b.Grid.Y+b.Grid.H && b.Grid.Y < a.Grid.Y+a.Grid.H {
				t.Errorf("%s: %s and %s are in one place", file, a.Title, b.Title)
			}
		}
	}
}

// Names that are not exported are found, or the tests above would prove
// nothing.
func TestCheckFinds(t *testing.T) {
	t.Parallel()
	c := exported(t)
	for _, expr := range []string{
		`outbox_lag_second`, `outbox_relay_state{state="halted"}`, `outbox_relay_state{stat="failed"}`, `sum by (topic) (outbox_leader)`,
		`rate(outbox_leader_bucket[1m])`, `outbox_transactions_total{result=~"aborted|unkown"}`,
	} {
		if len(c.problems(expr)) != 1 {
			t.Errorf("%s: %v", expr, c.problems(expr))
		}
	}
}
