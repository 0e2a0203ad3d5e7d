//go:build !wrong_row_lsn

package mutant

// FilterByRowLSN drops a row after a restart by its own LSN instead of its transaction's.
const FilterByRowLSN = false
