// The plain style: a goroutine per connection, a 4-byte length before a JSON body, one Write per
// message; and a load generator for a running Postroad node, written from docs/dialects.md alone.
package main

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Options are those of every rival's program: see rivals/README.md.
type Options struct {
	at          string
	mode        string
	inFlight    int
	connections int
	rate        float64
	size        int
	seconds     float64
	warmUp      float64
	watch       []int
}

func parse(role string, arguments []string) (Options, error) {
	var options Options
	var watch, runtime string
	flags := flag.NewFlagSet(role, flag.ExitOnError)
	flags.StringVar(&options.at, "at", "127.0.0.1:7400", "address")
	flags.StringVar(&options.mode, "mode", "", "batched: one-way messages through a buffer")
	flags.IntVar(&options.inFlight, "in-flight", 1, "callers, each with one call in flight")
	flags.IntVar(&options.connections, "connections", 1, "connections")
	flags.Float64Var(&options.rate, "rate", 0, "load: calls due a second, whatever the answers do")
	flags.IntVar(&options.size, "size", 64, "bytes of a payload")
	flags.Float64Var(&options.seconds, "seconds", 0.8, "seconds measured")
	flags.Float64Var(&options.warmUp, "warm-up", 0.3, "seconds before that")
	flags.StringVar(&runtime, "runtime", "", "ignored: Go has one")
	flags.StringVar(&watch, "watch", "", "processes whose processor time is measured too")
	if err := flags.Parse(arguments); err != nil {
		return options, err
	}
	for _, text := range strings.Split(watch, ",") {
		if process, err := strconv.Atoi(text); err == nil {
			options.watch = append(options.watch, process)
		}
	}
	return options, nil
}

func (options Options) start() time.Time {
	return time.Now().Add(seconds(options.warmUp))
}

func seconds(count float64) time.Duration {
	return time.Duration(count * float64(time.Second))
}

func run() error {
	if len(os.Args) < 2 {
		return fmt.Errorf("usage: %s server|client|receiver|sender|load [options]", os.Args[0])
	}
	options, err := parse(os.Args[1], os.Args[2:])
	if err != nil {
		return err
	}
	switch os.Args[1] {
	case "server":
		return serve(options)
	case "client":
		return call(options)
	case "receiver":
		return receive(options)
	case "sender":
		return send(options)
	case "load":
		return load(options)
	}
	return fmt.Errorf("%q is no role", os.Args[1])
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "rival-go:", err)
		os.Exit(1)
	}
}
