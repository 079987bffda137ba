package conntrack

import (
	"os"
	"testing"

	"multiroute/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m.Run)) }
