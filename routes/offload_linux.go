package routes

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// LargeReceive reports whether the network card puts packets together (LRO)
// before anybody sees them: what is forwarded then is larger than the next link
// takes. The kernel switches it off where forwarding begins; a person can switch
// it on again. An interface that does not know it has an error.
func LargeReceive(name string) (bool, error) {
	const (
		getFlags = 0x25    // ETHTOOL_GFLAGS, linux/ethtool.h
		lro      = 1 << 15 // ETH_FLAG_LRO
	)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("asking %s for its offloads: %w", name, err)
	}
	defer unix.Close(fd)
	value := struct{ cmd, data uint32 }{cmd: getFlags} // struct ethtool_value
	var request struct {                               // struct ifreq
		name  [unix.IFNAMSIZ]byte
		value unsafe.Pointer
		_     [16]byte
	}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	request.value = unsafe.Pointer(&value)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return false, fmt.Errorf("asking %s for its offloads: %w", name, errno)
	}
	return value.data&lro != 0, nil
}
