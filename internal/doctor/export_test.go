package doctor

import (
	"slices"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// Declares tells whether a check may say a code.
func Declares(g Group, name string, code *fault.Code) bool {
	return slices.ContainsFunc(checks(), func(c check) bool {
		return c.group == g && c.name == name && slices.Contains(c.codes, code)
	})
}
