package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Report is the result line that every rival's client prints; latencies are nanoseconds.
type Report struct {
	Calls           uint64  `json:"calls"`
	Seconds         float64 `json:"seconds"`
	Rate            float64 `json:"rate"`
	P50             int64   `json:"p50"`
	P90             int64   `json:"p90"`
	P99             int64   `json:"p99"`
	P999            int64   `json:"p999"`
	Max             int64   `json:"max"`
	OwnCPU          float64 `json:"own_cpu"`
	OtherCPU        float64 `json:"other_cpu"`
	ConnectionBytes float64 `json:"connection_bytes"`
	// How late the calls of a given rate were sent after they were due.
	LateP50 int64 `json:"late_p50,omitempty"`
	LateP99 int64 `json:"late_p99,omitempty"`
	LateMax int64 `json:"late_max,omitempty"`
}

func printReport(report Report) {
	report.Rate = float64(report.Calls) / report.Seconds
	line, err := json.Marshal(report)
	if err != nil {
		fmt.Fprintln(os.Stderr, "rival-go:", err)
		os.Exit(1)
	}
	fmt.Println(string(line))
}

// closedLoop runs the callers, each of which waits for its answer before it calls again, and prints
// what the calls took that ended within the measured time.
func closedLoop(options Options, caller func(number int) (func() error, error)) error {
	start := options.start()
	end := start.Add(seconds(options.seconds))
	var over atomic.Bool
	var callers sync.WaitGroup
	latencies := make([][]int64, options.inFlight)
	failures := make(chan error, options.inFlight)
	for number := range latencies {
		call, err := caller(number)
		if err != nil {
			return err
		}
		callers.Add(1)
		go func(number int) {
			defer callers.Done()
			last := time.Now()
			for !over.Load() {
				if err := call(); err != nil {
					failures <- err
					return
				}
				now := time.Now()
				if !now.Before(start) && now.Before(end) {
					latencies[number] = append(latencies[number], now.Sub(last).Nanoseconds())
				}
				last = now
			}
		}(number)
	}
	time.Sleep(time.Until(start))
	own, other := ownCPU(), cpuOf(options.watch)
	time.Sleep(time.Until(end))
	own, other = ownCPU()-own, cpuOf(options.watch)-other
	over.Store(true)
	callers.Wait()
	select {
	case err := <-failures:
		return err
	default:
	}
	report, err := summary(options, latencies)
	if err != nil {
		return err
	}
	report.OwnCPU, report.OtherCPU = own, other
	printReport(report)
	return nil
}

// summary is the percentiles of times that several have measured.
func summary(options Options, times [][]int64) (Report, error) {
	var all []int64
	for _, some := range times {
		all = append(all, some...)
	}
	if len(all) == 0 {
		return Report{}, fmt.Errorf("no call was answered within the measured time")
	}
	sort.Slice(all, func(a, b int) bool { return all[a] < all[b] })
	at := func(part float64) int64 { return all[int(part*float64(len(all)-1))] }
	return Report{
		Calls: uint64(len(all)), Seconds: options.seconds,
		P50: at(0.5), P90: at(0.9), P99: at(0.99), P999: at(0.999), Max: at(1),
	}, nil
}

func ownCPU() float64 {
	return cpuOf([]int{os.Getpid()})
}

// cpuOf is the processor time of processes, in seconds: the sum over their threads.
func cpuOf(processes []int) float64 {
	var nanos uint64
	for _, process := range processes {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", process))
		for _, thread := range threads {
			// A thread may have ended since the folder was read.
			if text, err := os.ReadFile(thread); err == nil {
				time, _ := strconv.ParseUint(strings.Fields(string(text))[0], 10, 64)
				nanos += time
			}
		}
	}
	return float64(nanos) / 1e9
}
