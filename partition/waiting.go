package partition

import "sort"

// waiting holds written appends until the high watermark covers them, ordered
// by next offset.
type waiting struct {
	list []waiter
	head int
}

type waiter struct {
	base, next int64
	timestamp  int64
	done       Completion
}

func (w *waiting) len() int { return len(w.list) - w.head }

// add inserts in order; all but duplicates go to the end.
func (w *waiting) add(x waiter) {
	if w.head > 256 && w.head*2 > len(w.list) {
		n := copy(w.list, w.list[w.head:])
		clear(w.list[n:])
		w.list, w.head = w.list[:n], 0
	}
	w.list = append(w.list, x)
	if n := len(w.list); n-w.head > 1 && w.list[n-2].next > x.next {
		live := w.list[w.head : n-1]
		i := sort.Search(len(live), func(i int) bool { return live[i].next > x.next }) + w.head
		copy(w.list[i+1:], w.list[i:n-1])
		w.list[i] = x
	}
}

// release completes what the high watermark covers.
func (w *waiting) release(hw, logStart int64, eff *Effects) {
	for w.head < len(w.list) && w.list[w.head].next <= hw {
		x := w.list[w.head]
		w.list[w.head] = waiter{}
		w.head++
		eff.finish(x.done, AppendResult{BaseOffset: x.base, LogAppendTime: x.timestamp, LogStart: logStart})
	}
	if w.head == len(w.list) {
		w.list, w.head = w.list[:0], 0
	}
}

// fail completes everything with an error.
func (w *waiting) fail(code int16, eff *Effects) {
	for _, x := range w.list[w.head:] {
		eff.finish(x.done, refused(code, ""))
	}
	clear(w.list)
	w.list, w.head = w.list[:0], 0
}

// cancel removes the append of one completion.
func (w *waiting) cancel(c Completion) bool {
	for i := w.head; i < len(w.list); i++ {
		if w.list[i].done == c {
			copy(w.list[i:], w.list[i+1:])
			w.list[len(w.list)-1] = waiter{}
			w.list = w.list[:len(w.list)-1]
			return true
		}
	}
	return false
}

func refused(code int16, message string) AppendResult {
	return AppendResult{Err: code, Message: message, BaseOffset: -1, LogAppendTime: -1, LogStart: -1}
}

func (e *Effects) finish(c Completion, res AppendResult) {
	if c != nil {
		e.Done = append(e.Done, Finished{c, res})
	}
}
