package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// maxSize is the largest configuration file that is read.
const maxSize = 8 << 20

const tooLarge = "is larger than 8 MiB: a configuration needs a few KiB, split it up or look for what got into it"

// Load reads the main file and then its drop-ins, which are the *.toml files of
// the folder that is named like the main file with .d in place of .toml, in byte
// order of their names and without those that begin with a dot. The folder may
// be absent. What others than root and this user can write is not read. On failure the error is of type Errors.
func Load(path string) (*Config, error) { return Read(path).Parse() }

// read collects the files; what cannot be read has a fault instead of a text.
func read(path string) []source {
	main := source{name: path}
	f, err := os.OpenFile(path, openFlags, 0)
	if err == nil {
		main.text, main.fault = readOpen(f, path)
	} else if errors.Is(err, fs.ErrNotExist) {
		main.fault = "no such file: write one there, or name another with --config"
	} else {
		main.fault = cannotOpen(err)
	}
	return append([]source{main}, readDropIns(strings.TrimSuffix(path, ".toml")+".d")...)
}

// openFlags: a FIFO must not make us wait.
const openFlags = os.O_RDONLY | syscall.O_NONBLOCK | syscall.O_NOCTTY

// readDropIns reads the *.toml files of a folder. Symbolic links are followed
// within the folder only, so that what the configuration says is all in one place.
func readDropIns(dir string) []source {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return []source{{name: dir, fault: cannotOpen(err)}}
	}
	defer root.Close()
	if info, err := root.Stat("."); err != nil {
		return []source{{name: dir, fault: cannotOpen(err)}}
	} else if fault := distrust(info, dir, os.Geteuid()); fault != "" {
		return []source{{name: dir, fault: fault}}
	}
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return []source{{name: dir, fault: cannotOpen(err)}}
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".toml") && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	var sources []source
	for _, name := range names {
		src := source{name: filepath.Join(dir, name)}
		f, err := root.OpenFile(name, openFlags, 0)
		info, lerr := root.Lstat(name)
		switch {
		case err == nil:
			src.text, src.fault = readOpen(f, src.name)
		case errors.Is(err, fs.ErrNotExist) && lerr == nil:
			src.fault = "is a symbolic link to nothing: remove it or put the file there"
		case errors.Is(err, fs.ErrNotExist): // removed in this moment
			continue
		case lerr == nil && info.Mode()&fs.ModeSymlink != 0 && !errors.Is(err, fs.ErrPermission):
			src.fault = "is a symbolic link that leaves the folder: put a copy of the file here instead"
		default:
			src.fault = cannotOpen(err)
		}
		sources = append(sources, src)
	}
	return sources
}

// readOpen reads and closes f, or says why it should not be read.
func readOpen(f *os.File, name string) (text []byte, fault string) {
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, cannotOpen(err)
	case !info.Mode().IsRegular():
		return nil, "is not a regular file: put a file of TOML text there"
	}
	if fault := distrust(info, name, os.Geteuid()); fault != "" {
		return nil, fault
	}
	text, err = io.ReadAll(io.LimitReader(f, maxSize+1))
	switch {
	case err != nil:
		return nil, cannotOpen(err)
	case len(text) > maxSize:
		return nil, tooLarge
	}
	return text, ""
}

// serviceUser is whom the packages' service runs as: what belongs to it is right
// for root, too, who looks at the service's configuration.
const serviceUser = "multiroute"

// distrust says why what a file, or the names in a folder, say must not be
// believed by user me: somebody else may write there, if only more files.
func distrust(info fs.FileInfo, name string, me int) string {
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Sprintf("can be written by group or others, who could take over the router: run chmod go-w %s", shellQuote(name))
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stat.Uid == 0 || int(stat.Uid) == me {
		return ""
	}
	owner := strconv.Itoa(int(stat.Uid))
	if u, err := user.LookupId(owner); err == nil {
		owner = u.Username
	}
	if owner == serviceUser {
		return ""
	}
	return fmt.Sprintf("belongs to user %s, who could take over the router: run chown root %s", owner, shellQuote(name))
}

// cannotOpen says why a file cannot be read, without its name.
func cannotOpen(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return "permission denied: run this as root, or let this user read the file"
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return "cannot be read: " + err.Error()
}

// shellQuote prints a file name so that it can be pasted into a shell.
func shellQuote(name string) string {
	if strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._-+") == "" {
		return name
	}
	return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
}
