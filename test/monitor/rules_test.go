package monitor

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/holdwall/outbox-relay/test/harness"
)

const (
	rulesDir  = root + "deploy/prometheus/"
	rulesFile = rulesDir + "outbox-relay.rules.yml"
	runbooks  = "https://github.com/holdwall/outbox-relay/blob/main/docs/runbooks.md#"
)

type rule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func alerts(t *testing.T) []rule {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string `yaml:"name"`
			Rules []rule `yaml:"rules"`
		} `yaml:"groups"`
	}
	strict(t, rulesFile, &file)
	var all []rule
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

func strict(t *testing.T, name string, into any) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dec := yaml.NewDecoder(f)
	dec.KnownFields(true)
	if err := dec.Decode(into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// Every alert says what, to whom, and where to read on, of metrics that exist.
func TestRules(t *testing.T) {
	t.Parallel()
	c := exported(t)
	pages, err := os.ReadFile(root + "docs/runbooks.md")
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(pages), "\n## ")
	sections := map[string]string{}
	for _, p := range parts[1:] {
		title, text, _ := strings.Cut(p, "\n")
		sections[title] = text
	}
	for _, r := range alerts(t) {
		c.check(t, r.Alert, r.Expr)
		for _, key := range []string{"summary", "description", "runbook_url"} {
			if r.Annotations[key] == "" {
				t.Errorf("%s: no %s", r.Alert, key)
			}
		}
		if s := r.Labels["severity"]; s != "critical" && s != "warning" {
			t.Errorf("%s: severity %q", r.Alert, s)
		}
		if r.Annotations["runbook_url"] != runbooks+strings.ToLower(r.Alert) {
			t.Errorf("%s: runbook %s", r.Alert, r.Annotations["runbook_url"])
		}
		for _, part := range []string{"*Look.*", "*Do.*", "*Do not*", "*Wake*"} {
			if !strings.Contains(sections[r.Alert], part) {
				t.Errorf("docs/runbooks.md: no %s in a section ## %s", part, r.Alert)
			}
		}
		delete(sections, r.Alert+" ")
	}
	for title := range sections {
		if !slices.ContainsFunc(alerts(t), func(r rule) bool { return r.Alert == title }) {
			t.Errorf("docs/runbooks.md: ## %s is no alert", title)
		}
	}
}

type unitTests struct {
	Rules    []string `yaml:"rule_files"`
	Interval string   `yaml:"evaluation_interval"`
	Tests    []struct {
		Name     string              `yaml:"name"`
		Interval string              `yaml:"interval"`
		Series   []map[string]string `yaml:"input_series"`
		Alerts   []struct {
			At    string `yaml:"eval_time"`
			Alert string `yaml:"alertname"`
			Want  []struct {
				Labels      map[string]string `yaml:"exp_labels"`
				Annotations map[string]string `yaml:"exp_annotations"`
			} `yaml:"exp_alerts"`
		} `yaml:"alert_rule_test"`
	} `yaml:"tests"`
}

// Every alert has been seen to fire, with each of its severities, and to be
// silent before its time and in tests of its own where it must be.
func TestRulesAreTested(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(rulesDir + "*_test.yml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	fires, silentTests := map[string]int{}, map[string]int{}
	c := exported(t)
	for _, f := range files {
		var u unitTests
		strict(t, f, &u)
		for _, test := range u.Tests {
			fired := map[string]bool{}
			for _, a := range test.Alerts {
				for _, w := range a.Want {
					fires[a.Alert+"/"+w.Labels["severity"]]++
					fired[a.Alert] = true
				}
			}
			for _, a := range test.Alerts {
				if !fired[a.Alert] {
					silentTests[a.Alert]++
				}
			}
			for _, s := range test.Series {
				if strings.HasPrefix(s["series"], "outbox_") {
					c.check(t, f, s["series"])
				}
			}
		}
	}
	for _, r := range alerts(t) {
		if fires[r.Alert+"/"+r.Labels["severity"]] == 0 || silentTests[r.Alert] < 2 {
			t.Errorf("%s, %s: fires in %d tests, and is silent in %d others", r.Alert, r.Labels["severity"], fires[r.Alert+"/"+r.Labels["severity"]], silentTests[r.Alert])
		}
	}
}

func TestPromtool(t *testing.T) {
	t.Parallel()
	bin := harness.Promtool(t)
	files, err := filepath.Glob(rulesDir + "*_test.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"check", "rules", "--lint=all", "--lint-fatal", rulesFile}, append([]string{"test", "rules"}, files...)} {
		out, err := exec.CommandContext(t.Context(), bin, args...).CombinedOutput()
		if err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}
