package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"agent": main})
}

// TestScripts runs the commands as people and scripts do. In addition to what
// testscript has:
//
//	code N agent ARGUMENTS  the program must end with this exit code
//	serve                   an agent answers at $WORK/s; its uplinks are dsl and lte
//	asked [CHANGE]          what that agent was asked to change since the last time
//	[root] or [!root]       only (not) for root
//
// and $WORK in a *.toml file is the folder that the files are put into.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		Setup:               expandWork,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"code": code, "serve": serve, "asked": asked},
		Condition:           condition,
		UpdateScripts:       *update,
		RequireExplicitExec: true, // no "agent" without the exit code
		RequireUniqueNames:  true,
	})
}

// code runs a program, for which the built-in exec knows only success and failure.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || args[1] != "agent" {
		ts.Fatalf("usage: code N agent ARGUMENTS")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func condition(cond string) (bool, error) {
	if cond == "root" {
		return os.Geteuid() == 0, nil
	}
	return false, fmt.Errorf("there is no condition %q", cond)
}

// expandWork is for configuration files, which must name absolute paths.
func expandWork(env *testscript.Env) error {
	env.Values[agentKey] = &fakeAgent{}
	return filepath.WalkDir(env.WorkDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".toml" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, bytes.ReplaceAll(text, []byte("$WORK"), []byte(env.WorkDir)), 0o600)
	})
}
