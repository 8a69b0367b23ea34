package segment

import "io"

// Store, Log and Range are placeholders until the package lands.
type (
	Store struct{}
	Log   struct{}
	Range struct{}
)

func (*Range) Len() int64                          { return 0 }
func (*Range) WriteTo(io.Writer) (int64, error)    { return 0, nil }
func (*Range) AppendTo(dst []byte) ([]byte, error) { return dst, nil }
func (*Range) Release()                            {}
