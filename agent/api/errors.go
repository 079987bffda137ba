package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
)

var (
	// ErrNotRunning is wrapped by the errors of a Client whose socket does not exist, or on
	// whose socket nobody answers.
	ErrNotRunning = errors.New("the agent does not run")

	// ErrAlreadyRunning is wrapped by the error of Listen when another process serves the
	// same socket.
	ErrAlreadyRunning = errors.New("another agent is running")

	// ErrConfig is wrapped by the error of a reload that failed because the configuration
	// is wrong. It travels over the socket.
	ErrConfig = errors.New("wrong configuration")

	// ErrBusy is wrapped by the errors about an agent that cannot do what is asked just
	// now, but may later. It travels over the socket.
	ErrBusy = errors.New("the agent is busy")

	// ErrUnknown is wrapped by the errors about something that was asked for by its name
	// and does not exist. It travels over the socket.
	ErrUnknown = errors.New("unknown")

	// ErrNothing is wrapped by the error of Confirm when nothing waits for it. It travels
	// over the socket.
	ErrNothing = errors.New("nothing to do")
)

// UnknownUplink returns the error of a Handler for a name that no uplink has; known
// are the names there are. It wraps ErrUnknown.
func UnknownUplink(name string, known []string) error {
	return fmt.Errorf("%w uplink %q: known are %s", ErrUnknown, name, strings.Join(known, ", "))
}

// An Error is what the agent answered instead of a result. It is an ErrConfig, an ErrBusy,
// an ErrUnknown, an ErrNothing or an fs.ErrPermission, depending on its Code.
type Error struct {
	// Code is the status code of HTTP.
	Code int

	// Text is the agent's own, complete: several lines for a wrong configuration.
	Text string
}

// Error returns the text.
func (e *Error) Error() string { return e.Text }

// Is makes errors.Is recognise the kinds of error that travel over the socket.
func (e *Error) Is(target error) bool {
	switch e.Code {
	case http.StatusUnprocessableEntity:
		return target == ErrConfig
	case http.StatusServiceUnavailable:
		return target == ErrBusy
	case http.StatusNotFound:
		return target == ErrUnknown
	case http.StatusConflict:
		return target == ErrNothing
	case http.StatusForbidden:
		return target == fs.ErrPermission
	}
	return false
}

// StatusCode returns the status code of HTTP for an error of a Handler.
func StatusCode(err error) int {
	var e *Error
	switch {
	case errors.As(err, &e) && e.Code >= 400:
		return e.Code
	case errors.Is(err, ErrConfig):
		return http.StatusUnprocessableEntity
	case errors.Is(err, ErrBusy):
		return http.StatusServiceUnavailable
	case errors.Is(err, ErrUnknown):
		return http.StatusNotFound
	case errors.Is(err, ErrNothing):
		return http.StatusConflict
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	case errors.Is(err, errors.ErrUnsupported):
		return http.StatusNotImplemented
	}
	return http.StatusInternalServerError
}

// errorBody is the JSON of every error.
type errorBody struct {
	Error string `json:"error"`
}
