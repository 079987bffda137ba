// Agent is multiroute's one program: the daemon and the commands that talk to
// it. Each command has a file of its own; decisions are made in the packages.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"multiroute/agent"
	"multiroute/agent/api"
	"multiroute/agent/config"
)

// Exit codes, as promised to scripts.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2 // wrong usage or wrong configuration

	exitWarnings = 3 // of agent doctor: warnings, and nothing worse
	exitStopped  = 3 // of the daemon: asked to stop by agent purge, not to be started again
)

// defaultConfig is the main configuration file.
const defaultConfig = "/etc/multiroute/agent.toml"

// version is set by the linker.
var version = ""

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// command is one verb.
type command struct {
	name, args, help string
	run              func(*call) error
	flags            func(*flag.FlagSet, *call) // adds those of its own
}

func commands() []command {
	return []command{
		{name: "run", help: "the daemon, in the foreground", run: runDaemon},
		{name: "reload", help: "read the configuration again; the same as SIGHUP, but it waits and says what happened", run: reload, flags: reloadFlags},
		{name: "confirm", help: "keep the configuration that \"reload --confirm\" put in force", run: confirm},
		{name: "check", help: "validate the configuration files; needs neither root nor a daemon", run: check},
		{name: "plan", help: "what a reload would change in the kernel; changes nothing", run: showPlan},
		{name: "show", args: "nft|routes", help: "the whole wanted state", run: show},
		{name: "status", help: "uplinks and policies; with --watch again and again", run: status, flags: statusFlags},
		{name: "flows", args: "[UPLINK]", help: "connections on the uplinks, or on one of them", run: flows},
		{name: "explain", args: "FROM TO[:PORT]", help: "where such a packet goes, and why; FROM is an address, or local", run: explain, flags: explainFlags},
		{name: "uplink", args: "disable|enable NAME", help: "take an uplink out for maintenance, and put it in again", run: setUplink, flags: uplinkFlags},
		{name: "doctor", help: "what is wrong on this machine or would get in the way, each with its remedy; works without the daemon, too", run: diagnose},
		{name: "purge", help: "remove everything multiroute owns", run: purge},
		{name: "version", help: "print the version", run: printVersion},
	}
}

// call is one invocation.
type call struct {
	config string
	json   bool
	watch  bool          // --watch of agent status
	time   time.Duration // --for of agent uplink, --confirm of agent reload; 0: not given
	args   []string
	out    io.Writer
	err    io.Writer

	explain explainOptions
}

// errUsage marks errors that are the caller's.
var errUsage = errors.New("wrong usage")

func run(args []string, out, errOut io.Writer) int {
	if len(args) == 0 {
		usage(errOut)
		return exitUsage
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		usage(out)
		return exitDone
	}
	for _, c := range commands() {
		if c.name != args[0] {
			continue
		}
		invocation := &call{out: out, err: errOut}
		flags := flag.NewFlagSet("agent "+c.name, flag.ContinueOnError)
		flags.SetOutput(errOut)
		flags.Usage = func() {} // flag does not know whether that is asked for
		flags.StringVar(&invocation.config, "config", defaultConfig, "`PATH` of the main configuration file")
		flags.BoolVar(&invocation.json, "json", false, "print JSON")
		if c.flags != nil {
			c.flags(flags, invocation)
		}
		// Flags may stand before, between and behind the arguments.
		for rest := args[1:]; ; rest = rest[1:] {
			if err := flags.Parse(rest); errors.Is(err, flag.ErrHelp) {
				c.usage(out, flags)
				return exitDone
			} else if err != nil {
				c.usage(errOut, flags)
				return exitUsage
			}
			if rest = flags.Args(); len(rest) == 0 {
				break
			}
			invocation.args = append(invocation.args, rest[0])
		}
		if c.args == "" && len(invocation.args) > 0 {
			fmt.Fprintf(errOut, "agent %s: unexpected argument %q\n", c.name, invocation.args[0])
			return exitUsage
		}
		return exit(c.run(invocation), c.name, errOut)
	}
	fmt.Fprintf(errOut, "agent: unknown command %q\n", args[0])
	usage(errOut)
	return exitUsage
}

// exit reports an error and chooses the exit code.
func exit(err error, name string, errOut io.Writer) int {
	if err == nil {
		return exitDone
	}
	var status exitStatus
	if errors.As(err, &status) {
		return int(status)
	}
	if errors.Is(err, agent.ErrStopped) {
		return exitStopped
	}
	var wrong config.Errors
	if errors.As(err, &wrong) {
		fmt.Fprintln(errOut, wrong.Error()) // file:line: key: problem, a line each, for people and editors
		return exitUsage
	}
	if errors.Is(err, api.ErrConfig) {
		fmt.Fprintln(errOut, err)
		return exitUsage
	}
	fmt.Fprintf(errOut, "agent %s: %v\n", name, err)
	var answer *api.Error
	if errors.Is(err, errUsage) || errors.As(err, &answer) && (answer.Code == http.StatusBadRequest || answer.Code == http.StatusNotFound) {
		return exitUsage
	}
	return exitFailed
}

// usage says how the command is written, with all its flags.
func (c command) usage(w io.Writer, flags *flag.FlagSet) {
	line, list := "usage: agent "+c.name, ""
	flags.VisitAll(func(f *flag.Flag) {
		value, help := flag.UnquoteUsage(f)
		if f.DefValue != "" && f.DefValue != "false" {
			help += " (default " + f.DefValue + ")"
		}
		written := strings.TrimSuffix("--"+f.Name+" "+value, " ")
		line += " [" + written + "]"
		list += fmt.Sprintf("  %-17s %s\n", written, help)
	})
	fmt.Fprintf(w, "%s\n%s\n\n%s", strings.TrimSuffix(line+" "+c.args, " "), c.help, list)
}

func usage(w io.Writer) {
	fmt.Fprint(w, "usage: agent COMMAND [--config PATH] [--json]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-27s %s\n", c.name+" "+c.args, c.help)
	}
}

// versionText is the linker's version, or what Go knows of a development build.
func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
