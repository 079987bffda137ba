package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

const (
	// maxResponse is the longest answer that a Client reads, in bytes.
	maxResponse = 64 << 20

	// clientTimeout is a little more than the longest that a Server takes.
	clientTimeout = 70 * time.Second

	// maxHeader is about the longest header of an answer that is read, in bytes.
	maxHeader = 64 << 10
)

var errTooLong = errors.New("the answer is too long")

// A Client asks the agent behind a control socket. It holds no connection between calls
// and needs no Close. It is safe for concurrent use.
//
// Errors wrap ErrNotRunning where there is no agent and fs.ErrPermission where the user may
// not use the socket or not do this; what the agent itself answered is an *Error. A call
// ends after 70 seconds at the latest.
type Client struct {
	path  string
	limit int64
	dial  func(ctx context.Context) (net.Conn, error)
}

// Dial returns a client for the socket at path. It does not connect yet.
func Dial(path string) *Client {
	return &Client{path: path, limit: maxResponse, dial: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
}

// Status asks how things stand.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.json(ctx, http.MethodGet, pathStatus, &s)
	return s, err
}

// Reload makes the agent read its configuration again. The error is an ErrConfig if the
// configuration is wrong; its text is then one line per mistake. With onTrial above 0, the
// one before comes back after that time unless Confirm is called. The reload goes on if ctx
// ends.
func (c *Client) Reload(ctx context.Context, onTrial time.Duration) (ReloadResult, error) {
	path := pathReload
	if onTrial != 0 {
		path += "?" + url.Values{"confirm": {onTrial.String()}}.Encode()
	}
	var r ReloadResult
	err := c.json(ctx, http.MethodPost, path, &r)
	return r, err
}

// Confirm makes the configuration that is on trial stay. The error is an ErrNothing if none
// is.
func (c *Client) Confirm(ctx context.Context) (ReloadResult, error) {
	var r ReloadResult
	err := c.json(ctx, http.MethodPost, pathConfirm, &r)
	return r, err
}

// Plan asks what a reload would change, in the notation of nft and ip.
func (c *Client) Plan(ctx context.Context) (string, error) {
	body, err := c.do(ctx, http.MethodGet, pathPlan)
	return string(body), err
}

// Show asks for the wanted state: ShowNFT or ShowRoutes.
func (c *Client) Show(ctx context.Context, what string) (string, error) {
	if what != ShowNFT && what != ShowRoutes {
		return "", fmt.Errorf("cannot show %q: only %q and %q", what, ShowNFT, ShowRoutes)
	}
	body, err := c.do(ctx, http.MethodGet, pathShow+what)
	return string(body), err
}

// Stop makes the daemon end soon and leave the data plane as it is. It does not wait for
// that end.
func (c *Client) Stop(ctx context.Context) error {
	_, err := c.do(ctx, http.MethodPost, pathStop)
	return err
}

// SetUplink takes an uplink out for maintenance, or puts it in again; d above 0 lets it come
// back by itself after that time. The error is an ErrUnknown if there is no such uplink; its
// text then names those that there are.
func (c *Client) SetUplink(ctx context.Context, name string, enabled bool, d time.Duration) error {
	query, path := url.Values{"name": {name}}, pathEnable
	if !enabled {
		path = pathDisable
	}
	if d != 0 {
		query.Set("for", d.String())
	}
	_, err := c.do(ctx, http.MethodPost, path+"?"+query.Encode())
	return err
}

var _ Handler = &Client{}

func (c *Client) json(ctx context.Context, method, path string, v any) error {
	body, err := c.do(ctx, method, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("understanding the agent's answer: %w", err)
	}
	return nil
}

// do sends a request and returns the body of the answer.
func (c *Client) do(ctx context.Context, method, path string) (body []byte, err error) {
	err = c.read(ctx, method, path, func(r io.Reader) (err error) {
		body, err = c.all(r)
		return err
	})
	return body, err
}

// read sends a request and hands over the body of the answer while it arrives.
func (c *Client) read(ctx context.Context, method, path string, body func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, clientTimeout)
	defer cancel()
	err := c.exchange(ctx, method, path, body)
	var answer *Error
	switch {
	case err == nil || errors.As(err, &answer):
		return err
	case ctx.Err() != nil:
		err = ctx.Err() // that is why the connection failed
	}
	return c.explain(err)
}

// all reads the whole body of an answer.
func (c *Client) all(body io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(body, c.limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the answer: %w", err)
	case int64(len(b)) > c.limit:
		return nil, errTooLong
	}
	return b, nil
}

// exchange makes a connection for one request. Unlike http.Transport it understands an
// answer that comes before the request is sent: that the agent has too many clients.
// It calls read with the body of an answer that is no error.
func (c *Client) exchange(ctx context.Context, method, path string, read func(body io.Reader) error) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, nil)
	if err != nil {
		return err
	}
	req.Close = true
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // closed: over already
	defer stop()

	writeErr := req.Write(conn)
	answer := &io.LimitedReader{R: conn, N: c.limit + maxHeader}
	resp, err := http.ReadResponse(bufio.NewReader(answer), req)
	switch {
	case err != nil && answer.N <= 0:
		return errTooLong
	case err != nil && writeErr != nil:
		return writeErr
	case err != nil:
		return err
	}
	// The body is not closed: that would read it to its end. It holds nothing but conn.
	if resp.StatusCode == http.StatusOK {
		answer.N = math.MaxInt64 // read bounds it, if need be
		return read(resp.Body)
	}
	text, err := c.all(resp.Body)
	if err != nil {
		return err
	}
	var e errorBody
	if json.Unmarshal(text, &e) != nil || e.Error == "" {
		e.Error = fmt.Sprintf("the agent answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	return &Error{Code: resp.StatusCode, Text: e.Error}
}

// explain turns an error of the connection into one that says what to do.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf(`%w (no socket at %s): start it with "agent run", or start its service`, ErrNotRunning, c.path)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf(`%w (nobody answers at %s): start it with "agent run", or start its service`, ErrNotRunning, c.path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("no permission for %s: %s: %w", c.path, groupAdvice(c.path), fs.ErrPermission)
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: it closed the connection; try again: %w", ErrBusy, err)
	}
	return fmt.Errorf("asking the agent: %w", err)
}

// groupAdvice says which group the user would have to be in: that of the socket, or of its
// folder where the socket cannot be seen.
func groupAdvice(path string) string {
	for _, p := range []string{path, filepath.Dir(path)} {
		info, err := os.Lstat(p)
		if err != nil {
			continue
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || st.Gid == 0 {
			break
		}
		name := strconv.FormatUint(uint64(st.Gid), 10)
		if g, err := user.LookupGroupId(name); err == nil {
			name = g.Name
		}
		return fmt.Sprintf(`you are not in group %s: use sudo, or "usermod -aG %s USER" and log in again`, name, name)
	}
	return "only root may use it: use sudo"
}
