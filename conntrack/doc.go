// Package conntrack reads and changes the kernel's table of connections through
// ctnetlink: it deletes and counts connections by mark, lists them, and moves them
// to another mark. Everything goes through one netlink socket per Conn.
//
// The work is left to the kernel wherever the kernel can do it: DeleteByMark is one
// message, whatever the number of connections, and lists are filtered before they are
// sent. Lists are streamed; nothing here holds the table in memory.
//
// The message formats follow include/uapi/linux/netfilter/nfnetlink_conntrack.h and
// net/netfilter/nf_conntrack_netlink.c of the kernel. Encoding and decoding are pure;
// only conn_linux.go talks to the kernel.
//
// # Marks
//
// A mark is always given together with a mask: the bits that belong to the caller.
// Bits outside the mask are never compared and never changed. A mark with bits outside
// its mask is refused before anything is sent, because the kernel would not do what was
// meant: it compares (ct.mark & mask) == mark, and it sets ct.mark = (ct.mark & ^mask) ^ mark.
//
// # Limits
//
//   - Connections in a flowtable (StatusOffload) are skipped by the kernel's deletion by
//     mark, and refused one by one with EBUSY.
//   - A list is not a snapshot: connections that come and go while it runs may be missing,
//     and after a resize of the kernel's hash table one may appear twice.
//   - The kernel compares the mark of every connection for DeleteByMark and for a filtered
//     list; both take time in proportion to the whole table.
package conntrack
