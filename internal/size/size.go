// Package size writes numbers of bytes for people: 740.0 MiB. It is one room for
// all that is printed or logged, so that the same slot has the same size in each.
package size

import "fmt"

// Of writes a number of bytes, with the largest unit up to TiB that leaves a whole
// one.
func Of(bytes int64) string {
	const unit = 1024
	if bytes < unit {
		return fmt.Sprintf("%d B", bytes)
	}
	v, suffix := float64(bytes)/unit, 0
	for v >= unit && suffix < 3 {
		v, suffix = v/unit, suffix+1
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGT"[suffix])
}
