package consumer

// fifo is a queue whose memory shrinks with it.
type fifo[T any] struct {
	items []T
	head  int
}

func (f *fifo[T]) len() int { return len(f.items) - f.head }

// all returns what is queued, in order. It is valid until the next change.
func (f *fifo[T]) all() []T { return f.items[f.head:] }

func (f *fifo[T]) push(v T) { f.items = append(f.items, v) }

// pushFront puts v before all others.
func (f *fifo[T]) pushFront(v T) {
	if f.head == 0 {
		f.items = append([]T{v}, f.items...)
		return
	}
	f.head--
	f.items[f.head] = v
}

// drop forgets the first n.
func (f *fifo[T]) drop(n int) {
	clear(f.items[f.head : f.head+n])
	f.head += n
	switch {
	case f.head == len(f.items):
		*f = fifo[T]{items: f.items[:0]}
	case f.head > len(f.items)/2 && f.head > 64:
		rest := copy(f.items, f.items[f.head:])
		clear(f.items[rest:])
		f.items, f.head = f.items[:rest], 0
	}
}

// cut forgets all behind the first n.
func (f *fifo[T]) cut(n int) {
	clear(f.items[f.head+n:])
	f.items = f.items[:f.head+n]
}

func (f *fifo[T]) pop() (v T, ok bool) {
	if f.len() == 0 {
		return v, false
	}
	v = f.items[f.head]
	f.drop(1)
	return v, true
}
