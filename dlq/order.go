package dlq

import (
	"cmp"
	"slices"
)

// Order finds the letters that would overtake others of their key. Where keys
// are parked that matters: what is parked between two letters goes out only
// after the first of them has been dealt with, and so must the second.
type Order struct {
	// All keys are to be kept in order; else only those with a parked letter.
	All  bool
	keys map[string]*lane
}

// lane is a key: its open letters.
type lane struct {
	parked bool
	open   []open
}

type open struct {
	place  Place
	where  Spot
	chosen bool
}

// Add notes an open letter, and whether it is to be replayed now.
func (o *Order) Add(i *Item, chosen bool) {
	hash, ok := KeyHash(i.Letter.Record("", 0))
	place, known := PlaceOf(i.Headers)
	if !ok || !known || i.Group != "" {
		return
	}
	if o.keys == nil {
		o.keys = map[string]*lane{}
	}
	if o.keys[hash] == nil {
		o.keys[hash] = &lane{}
	}
	l := o.keys[hash]
	l.parked = l.parked || i.Reason == Parked
	l.open = append(l.open, open{place, i.Where, chosen})
}

// Overtaking are the chosen letters with one before them that is not.
func (o *Order) Overtaking() map[Spot]bool {
	out := map[Spot]bool{}
	for _, l := range o.keys {
		if !l.parked && !o.All {
			continue
		}
		slices.SortFunc(l.open, func(a, b open) int {
			return cmp.Or(a.place.Compare(b.place), cmp.Compare(a.where.Offset, b.where.Offset))
		})
		first := slices.IndexFunc(l.open, func(e open) bool { return !e.chosen })
		if first < 0 {
			continue
		}
		for _, e := range l.open[first:] {
			out[e.where] = e.chosen
		}
	}
	return out
}
