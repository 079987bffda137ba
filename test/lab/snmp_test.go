//go:build linux

package lab

import (
	"fmt"
	"os"
	"strings"
)

// readSNMP is how many ICMP messages the calling thread's namespace received, and with " errors" how many were broken.
func readSNMP() (string, error) {
	var text string
	for _, file := range []string{"/proc/thread-self/net/snmp", "/proc/thread-self/net/snmp6"} {
		b, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		text += string(b)
	}
	var all []string
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		f := strings.Fields(line)
		switch {
		case len(f) == 2 && f[0] == "Icmp6InEchoReplies":
			all = append(all, f[1])
		case len(f) == 2 && f[0] == "Icmp6InErrors" && f[1] != "0":
			all = append(all, f[1]+" errors")
		case len(f) > 3 && f[0] == "Icmp:" && f[1] != "InMsgs":
			names := strings.Fields(lines[i-1])
			for k, name := range names {
				if name == "InEchoReps" {
					all = append(all, f[k])
				}
				if name == "InCsumErrors" && f[k] != "0" {
					all = append(all, f[k]+" errors")
				}
			}
		}
	}
	return fmt.Sprint(all), nil
}
