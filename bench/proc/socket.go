package proc

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// SocketInode is the kernel's number of the socket of a TCP connection over
// IPv4 loopback, seen from its end with the given local port. Linux only.
func SocketInode(local, remote int) (uint64, error) {
	f, err := os.Open("/proc/net/tcp")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	from, to := loopbackHex(local), loopbackHex(remote)
	for sc := bufio.NewScanner(f); sc.Scan(); {
		// sl local_address rem_address st queues timer retrnsmt uid timeout inode …
		field := strings.Fields(sc.Text())
		if len(field) > 9 && field[1] == from && field[2] == to {
			return strconv.ParseUint(field[9], 10, 64)
		}
	}
	return 0, fmt.Errorf("no connection from port %d to port %d of loopback", local, remote)
}

// loopbackHex is how /proc/net/tcp writes 127.0.0.1:port on a little-endian
// machine.
func loopbackHex(port int) string { return fmt.Sprintf("0100007F:%04X", port) }

// HasSocket reports whether a process holds the socket of that number.
func HasSocket(pid int, inode uint64) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return false // it has ended
	}
	want := fmt.Sprintf("socket:[%d]", inode)
	for _, fd := range fds {
		if to, err := os.Readlink(dir + "/" + fd.Name()); err == nil && to == want {
			return true
		}
	}
	return false
}
