// Command child stands in for the relay in the harness's own tests: it logs
// JSON, echoes its environment and ends as it is told.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if len(os.Args) < 2 || os.Args[1] != "serve" {
		fmt.Println("stdout of", os.Args[1:])
		fmt.Fprintln(os.Stderr, "stderr, tagged", tagged)
		os.Exit(3)
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	say := func(fields map[string]any) {
		line, _ := json.Marshal(fields)
		fmt.Fprintf(os.Stderr, "%s\n", line)
	}
	fmt.Println("not json")
	say(map[string]any{"msg": "up", "health": os.Getenv("HEALTH_ADDR"), "secret": os.Getenv("DATABASE_URL"), "args": os.Args[2:]})
	<-term
	say(map[string]any{"msg": "drained"})
	fmt.Fprint(os.Stderr, `{"msg":"no end of line"}`)
}
