package pipeline

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// childVariable makes the test binary a child that does what it says.
const childVariable = "PIPELINE_TEST_CHILD"

func TestMain(m *testing.M) {
	if mode := os.Getenv(childVariable); mode != "" {
		beChild(mode)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// beChild is the other side of the pipe. What it does with an event is the
// event's type; what it does at its end is the mode.
func beChild(mode string) {
	switch mode {
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
	case "parent": // of a process that holds all three pipes and ends with nobody's help
		sleeper := exec.Command("sleep", "600")
		sleeper.Stdin, sleeper.Stdout, sleeper.Stderr = os.Stdin, os.Stdout, os.Stderr
		if sleeper.Start() != nil {
			os.Exit(9)
		}
		fmt.Fprintln(os.Stderr, "sleeper", sleeper.Process.Pid)
	case "deaf":
		os.Stdin.Close()
		time.Sleep(time.Minute)
	case "idle":
		time.Sleep(time.Minute)
	case "host": // a pipeline with a child that ends with nobody's help
		c, err := NewChild(ChildConfig{
			Command: []string{os.Args[0]}, Environ: []string{childVariable + "=slow-to-end"}, Timeout: time.Minute, Grace: time.Minute,
			Log: zerolog.New(os.Stdout), OnState: func(bool, *fault.Error) {},
		})
		if err != nil {
			os.Exit(9)
		}
		_ = c.Run(context.Background())
	case "dead":
		os.Exit(7)
	}
	firstborn := false
	if mark, ok := strings.CutPrefix(mode, "mark:"); ok {
		f, err := os.OpenFile(mark, os.O_CREATE|os.O_EXCL, 0o600)
		if firstborn = err == nil; firstborn {
			f.Close()
		}
	}
	var held []string // answers to be given in reverse
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var ev struct {
			Seq        uint64
			ID, Type   string
			Attempt    int
			PayloadB64 string `json:"payload_base64"`
		}
		if err := json.Unmarshal(in.Bytes(), &ev); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(8)
		}
		say := func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
		verb, arg, _ := strings.Cut(ev.Type, ":")
		switch verb {
		case "ok":
			say(`{"id":%q,"status":"ok"}`, ev.ID)
		case "seq":
			say(`{"seq":%d,"status":"ok"}`, ev.Seq)
		case "flaky": // dies of the first attempt
			if ev.Attempt == 1 {
				os.Exit(3)
			}
			say(`{"seq":%d,"status":"ok"}`, ev.Seq)
		case "retry":
			say(`{"id":%q,"status":"retry","error":"not now\nreally"}`, ev.ID)
		case "later":
			say(`{"id":%q,"status":"retry","retry_after_seconds":%s}`, ev.ID, arg)
		case "fail":
			say(`{"id":%q,"status":"fail","error":"bad total"}`, ev.ID)
		case "die":
			os.Exit(3)
		case "answer-and-die":
			say(`{"id":%q,"status":"ok"}`, ev.ID)
			os.Exit(0)
		case "garbage-and-die":
			say(`Traceback: secret payload`)
			os.Exit(1)
		case "kill":
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		case "say":
			say("%s", arg)
		case "huge":
			say(`{"id":%q,"status":"ok","error":%q}`, ev.ID, strings.Repeat("x", 1<<20))
		case "silent":
		case "close":
			os.Stdout.Close()
		case "slow":
			fmt.Fprintln(os.Stderr, "begun")
			d, _ := time.ParseDuration(arg)
			time.Sleep(d)
			say(`{"id":%q,"status":"ok"}`, ev.ID)
		case "hold":
			held = append(held, fmt.Sprintf(`{"id":%q,"status":"ok"}`, ev.ID))
			if n, _ := strconv.Atoi(arg); len(held) == n {
				for i := range held {
					say("%s", held[len(held)-1-i])
				}
				held = nil
			}
		case "bystander": // unanswered in the first life
			if !firstborn {
				say(`{"id":%q,"status":"ok"}`, ev.ID)
			}
		case "mumble":
			fmt.Fprintln(os.Stderr, arg)
			say(`{"id":%q,"status":"ok"}`, ev.ID)
		}
	}
	if mode == "stubborn" || mode == "slow-to-end" {
		time.Sleep(time.Minute)
	}
}
