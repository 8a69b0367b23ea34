package wire

// Detach leaves the request's body to the garbage collector instead of
// recycling it after the answer. A produce that times out is answered while
// replicas may still hold its batches. Call it before the answer.
func (r *Request) Detach() { r.body = nil }
