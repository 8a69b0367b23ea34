package dev

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain looks for leaked goroutines with patience: memberlist does not wait
// for a probe in flight when it shuts down.
func TestMain(m *testing.M) {
	code := m.Run()
	err := goleak.Find()
	for deadline := time.Now().Add(40 * time.Second); err != nil && time.Now().Before(deadline); err = goleak.Find() {
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
