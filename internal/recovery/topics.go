package recovery

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/kafka"
)

type place = dlq.Place

// placeholders of a topic template, in the router's words.
var placeholders = regexp.MustCompile(`\$?\{[A-Za-z]+\}`)

// pattern matches the topics that a template can give.
func pattern(template string) *regexp.Regexp {
	parts := placeholders.Split(template, -1)
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".+") + "$")
}

// topics are all that are read besides those that rows of the table belong to:
// what was named, and what the template can give. A topic that a row named which
// is no longer in the table has to be named.
func (r *Recovery) topics(ctx context.Context) ([]string, error) {
	all := map[string]bool{}
	for _, name := range r.cfg.Topics {
		all[name] = true
	}
	if r.cfg.Router.TopicTemplate != "" {
		fits := pattern(r.cfg.Router.TopicTemplate)
		err := r.admin(func(adm *kadm.Client) error {
			there, err := adm.ListTopics(ctx)
			if err != nil {
				return kafka.Classify("list topics", err)
			}
			for _, name := range there.Names() {
				if fits.MatchString(name) && !slices.Contains(r.cfg.Router.DeniedTopics, name) && !there[name].IsInternal {
					all[name] = true
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return slices.Sorted(maps.Keys(all)), nil
}
