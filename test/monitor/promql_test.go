package monitor

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// selector is one mention of a metric in an expression.
type selector struct {
	metric   string
	matchers string // without braces
	labels   []matcher
}

type matcher struct{ label, op, value string }

var (
	token = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[0-9]+(?:\.[0-9]+)?[a-zA-Z]*|[a-zA-Z_:][a-zA-Z0-9_:]*|=~|!~|!=|[^\s]`)
	name  = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
)

// grouping are the words that a list of labels follows.
var grouping = []string{"by", "without", "on", "ignoring", "group_left", "group_right"}

var words = append([]string{"and", "or", "unless", "offset", "bool", "inf", "nan"}, grouping...)

// read finds the metrics of an expression and the labels that it groups by. It
// is no parser: promtool and Prometheus are. What it does not know it takes for
// a metric, so that nothing is overlooked.
func read(expr string) (metrics []selector, groupedBy []string) {
	expr = strings.NewReplacer("$__rate_interval", "1m", "$__interval", "1m", "$__range", "1h").Replace(expr)
	tokens := token.FindAllString(expr, -1)
	at := func(i int) string {
		if i < len(tokens) {
			return tokens[i]
		}
		return ""
	}
	for i := 0; i < len(tokens); i++ {
		word := tokens[i]
		switch {
		case word == "{": // a selector without a name
			end := i + slices.Index(tokens[i:], "}")
			metrics = append(metrics, selector{matchers: strings.Join(tokens[i+1:end], ""), labels: matchersOf(tokens[i+1 : end])})
			i = end
		case slices.Contains(grouping, word) && at(i+1) == "(":
			for i += 2; at(i) != ")" && i < len(tokens); i++ {
				if name.MatchString(tokens[i]) {
					groupedBy = append(groupedBy, tokens[i])
				}
			}
		case !name.MatchString(word) || slices.Contains(words, word):
		case at(i+1) == "(" || slices.Contains(grouping, at(i+1)) && i+2 < len(tokens) && at(i+2) == "(" && isAggregator(word):
		case at(i+1) == "{":
			end := i + slices.Index(tokens[i:], "}")
			metrics = append(metrics, selector{metric: word, matchers: strings.Join(tokens[i+2:end], ""), labels: matchersOf(tokens[i+2 : end])})
			i = end
		default:
			metrics = append(metrics, selector{metric: word})
		}
	}
	return metrics, groupedBy
}

func isAggregator(word string) bool {
	return slices.Contains([]string{"sum", "min", "max", "avg", "count", "topk", "bottomk", "stddev", "quantile", "group"}, word)
}

func matchersOf(tokens []string) (out []matcher) {
	for i := 0; i+2 < len(tokens); i += 4 {
		out = append(out, matcher{tokens[i], tokens[i+1], strings.Trim(tokens[i+2], `"'`)})
	}
	return out
}

func TestRead(t *testing.T) {
	t.Parallel()
	metrics, by := read(`histogram_quantile(0.99, sum by (le, phase) (rate(a_bucket{x="1",y=~"b|c"}[$__rate_interval]))) > 5 * 60
	  unless on (job) max by (job) (b_total offset 1m) == 1 or c`)
	want := []selector{
		{"a_bucket", `x="1",y=~"b|c"`, []matcher{{"x", "=", "1"}, {"y", "=~", "b|c"}}}, {metric: "b_total"}, {metric: "c"},
	}
	if diff := cmp.Diff(want, metrics, cmp.AllowUnexported(selector{}, matcher{})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"le", "phase", "job", "job"}, by); diff != "" {
		t.Error(diff)
	}
}
