package outbox

import (
	"encoding/hex"
	"strconv"
	"time"
)

// arena hands out small pieces of shared blocks, so that a short bytea costs
// a fraction of an allocation. Pieces never overlap and are never taken back.
type arena struct{ free []byte }

const (
	arenaBlock = 32 << 10
	arenaPiece = 2 << 10 // what is larger would waste the tail of a block
)

func (a *arena) take(n int) []byte {
	if n == 0 || n > arenaPiece {
		return make([]byte, n) // never nil, which would be NULL
	}
	if n > len(a.free) {
		a.free = make([]byte, arenaBlock)
	}
	b := a.free[:n:n]
	a.free = a.free[n:]
	return b
}

// bytea decodes either text form. The two cannot be confused: the escape form
// doubles a backslash, so it never begins with \x. A value in neither form is
// returned as it stands.
func (a *arena) bytea(v []byte) ([]byte, bool) {
	if len(v) >= 2 && v[0] == '\\' && v[1] == 'x' {
		dst := a.take((len(v) - 2) / 2)
		if _, err := hex.Decode(dst, v[2:]); err != nil {
			return v, false
		}
		return dst, true
	}
	dst := a.take(len(v))[:0]
	for i := 0; i < len(v); i++ {
		if v[i] != '\\' {
			dst = append(dst, v[i])
			continue
		}
		if i+1 < len(v) && v[i+1] == '\\' {
			dst = append(dst, '\\')
			i++
			continue
		}
		if i+3 >= len(v) || v[i+1] > '3' || !octal(v[i+1]) || !octal(v[i+2]) || !octal(v[i+3]) {
			return v, false
		}
		dst = append(dst, (v[i+1]-'0')<<6|(v[i+2]-'0')<<3|(v[i+3]-'0'))
		i += 3
	}
	return dst, true
}

func octal(c byte) bool { return c >= '0' && c <= '7' }

func parsePartition(v []byte) (int32, bool) {
	n, err := strconv.ParseInt(text(v), 10, 32)
	return int32(n), err == nil && n >= 0
}

// parseTimestamp reads Postgres' ISO form, 2026-01-02 03:04:05.678901+00, with
// or without fraction and zone. Without a zone it is UTC. It is written out
// because time.Parse costs more than the rest of the row.
func parseTimestamp(v []byte) (time.Time, bool) {
	if len(v) < len("2006-01-02 15:04:05") || v[4] != '-' || v[7] != '-' || v[10] != ' ' || v[13] != ':' || v[16] != ':' {
		return time.Time{}, false
	}
	year, month, day := digits(v[0:4]), digits(v[5:7]), digits(v[8:10])
	hour, minute, second := digits(v[11:13]), digits(v[14:16]), digits(v[17:19])
	if year < 1 || month < 1 || month > 12 || day < 1 || day > daysIn(month, year) ||
		hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59 {
		return time.Time{}, false
	}
	v = v[19:]
	nanos := 0
	if len(v) > 0 && v[0] == '.' {
		end := 1
		for end < len(v) && v[end] >= '0' && v[end] <= '9' {
			end++
		}
		if end < 2 || end > 10 {
			return time.Time{}, false
		}
		nanos = digits(v[1:end])
		for i := end; i < 10; i++ {
			nanos *= 10
		}
		v = v[end:]
	}
	offset, ok := parseZone(v)
	if !ok {
		return time.Time{}, false
	}
	seconds := daysBefore(year, month, day)*86400 + int64(hour*3600+minute*60+second) - int64(offset)
	return time.Unix(seconds, int64(nanos)).UTC(), true
}

// parseZone reads "", +hh, +hh:mm or +hh:mm:ss and returns seconds east of UTC.
func parseZone(v []byte) (int, bool) {
	if len(v) == 0 {
		return 0, true
	}
	sign := 1
	switch v[0] {
	case '+':
	case '-':
		sign = -1
	default:
		return 0, false
	}
	v = v[1:]
	total := 0
	for unit := 3600; unit > 0; unit /= 60 {
		if len(v) < 2 {
			return 0, false
		}
		n := digits(v[:2])
		if n < 0 || n > 59 {
			return 0, false
		}
		total += n * unit
		v = v[2:]
		if len(v) == 0 {
			return sign * total, true
		}
		if v[0] != ':' {
			return 0, false
		}
		v = v[1:]
	}
	return 0, false
}

// digits returns the number that v spells, or -1.
func digits(v []byte) int {
	n := 0
	for _, c := range v {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int(c-'0')
	}
	return n
}

func daysIn(month, year int) int {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// daysBefore counts days from 1970-01-01 to a date of the Gregorian calendar.
// Years begin in March here, which puts the leap day at the end and makes the
// lengths of the months a straight line.
func daysBefore(year, month, day int) int64 {
	month -= 2
	if month <= 0 {
		month += 12
		year--
	}
	leapDays := year/4 - year/100 + year/400
	return int64(year*365+leapDays+367*month/12+day) - 719499
}
