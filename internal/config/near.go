package config

import "slices"

// didYouMean ends a message with the nearest of the known words, if one is
// near.
func didYouMean(word string, known []string) string {
	if n := nearest(word, known); n != "" {
		return ", did you mean " + n + "?"
	}
	return ""
}

// nearest returns the known word with the fewest edits from the given one, or
// nothing if even that is another word rather than a typing error.
func nearest(word string, known []string) string {
	best, fewest := "", max(2, len(word)/4)+1
	for _, k := range slices.Sorted(slices.Values(known)) {
		if d := edits(word, k); d < fewest {
			best, fewest = k, d
		}
	}
	return best
}

// slip returns the known word that is one edit away, if there is one.
func slip(word string, known []string) string {
	for _, k := range slices.Sorted(slices.Values(known)) {
		if len(k)-len(word) <= 1 && len(word)-len(k) <= 1 && edits(word, k) == 1 {
			return k
		}
	}
	return ""
}

// edits counts insertions, deletions, replacements and swaps of neighbours.
func edits(a, b string) int {
	var before, last []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
