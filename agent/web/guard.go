package web

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// policy is the Content-Security-Policy: everything is ours, and nobody frames it.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// protect tells browsers what they may do with an answer.
func protect(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}

// refusal says why a request is not answered; code 0: it is.
func refusal(r *http.Request, configured netip.Addr) (code int, text string) {
	site, mode := r.Header.Get("Sec-Fetch-Site"), r.Header.Get("Sec-Fetch-Mode")
	foreign := site != "" && site != "same-origin" && site != "none"
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		return http.StatusMethodNotAllowed, "only GET and HEAD: nothing can be changed here"
	case r.ContentLength != 0:
		return http.StatusBadRequest, "a request with a body: nothing can be sent here"
	case !hostAllowed(r, configured):
		// A name of somebody else's may point here, and his page would be of our origin then.
		return http.StatusMisdirectedRequest, "this is not the name of this server: use its address, or localhost"
	case len(r.Header.Values("Origin")) > 0 && r.Header.Get("Origin") != "http://"+r.Host:
		return http.StatusForbidden, "pages of other servers get nothing from here"
	case foreign && (mode != "navigate" || r.Header.Get("Sec-Fetch-Dest") != "document"):
		return http.StatusForbidden, "pages of other servers get nothing from here"
	}
	return 0, ""
}

// hostAllowed reports whether the request is for a name or address of ours.
// With any port: it may have come through a tunnel.
func hostAllowed(r *http.Request, configured netip.Addr) bool {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return false
	case a == netip.AddrFrom4([4]byte{127, 0, 0, 1}), a == netip.IPv6Loopback(), a == configured:
		return true
	case configured.IsUnspecified(): // any of ours, but only the one that was called
		local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
		return ok && a == local.AddrPort().Addr().Unmap()
	}
	return false
}
