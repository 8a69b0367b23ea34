package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// formatVersion is written in the first line of a file.
const formatVersion = 1

// maxLine bounds one operation in a file: a poll of 64 MiB of JSON.
const maxLine = 64 << 20

type fileHeader struct {
	Version int      `json:"tailrace_history"`
	Keys    []string `json:"keys"`
}

// Save writes h as JSON lines: a header with the keys, then one operation a
// line in the order of invocation.
func Save(w io.Writer, h *History) error {
	bw := bufio.NewWriterSize(w, 1<<16)
	enc := json.NewEncoder(bw)
	if err := enc.Encode(fileHeader{Version: formatVersion, Keys: h.Keys}); err != nil {
		return err
	}
	for i := range h.Ops {
		if err := enc.Encode(&h.Ops[i]); err != nil {
			return err
		}
	}
	return bw.Flush()
}

// Load reads what Save wrote. An error names the line.
func Load(r io.Reader) (*History, error) {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 1<<16), maxLine)
	if !sc.Scan() {
		return nil, errors.Join(errors.New("history: empty file"), sc.Err())
	}
	var hd fileHeader
	if err := json.Unmarshal(sc.Bytes(), &hd); err != nil {
		return nil, fmt.Errorf("history: line 1: %w", err)
	}
	if hd.Version != formatVersion {
		return nil, fmt.Errorf("history: format version %d, want %d", hd.Version, formatVersion)
	}
	h := &History{Keys: hd.Keys}
	for n := 2; sc.Scan(); n++ {
		var op Op
		if err := json.Unmarshal(sc.Bytes(), &op); err != nil {
			return nil, fmt.Errorf("history: line %d: %w", n, err)
		}
		if err := h.validKeys(&op); err != nil {
			return nil, fmt.Errorf("history: line %d: %w", n, err)
		}
		h.Ops = append(h.Ops, op)
	}
	return h, sc.Err()
}

// validKeys refuses an operation on a key that the header does not name.
func (h *History) validKeys(op *Op) error {
	ok := func(k Key) bool { return k >= 0 && int(k) < len(h.Keys) }
	for _, m := range op.Mops {
		if !ok(m.Key) {
			return fmt.Errorf("unknown key %d", m.Key)
		}
		for _, r := range m.Reads {
			if !ok(r.Key) {
				return fmt.Errorf("unknown key %d", r.Key)
			}
		}
	}
	for _, k := range slices.Concat(op.Keys, op.Rebalance) {
		if !ok(k) {
			return fmt.Errorf("unknown key %d", k)
		}
	}
	return nil
}

// SaveFile writes h to path.
func SaveFile(path string, h *History) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(Save(f, h), f.Close())
}

// LoadFile reads a history from path.
func LoadFile(path string) (*History, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return Load(f)
}
