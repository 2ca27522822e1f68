package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// The dialect `sequence`: magic AB CD, version, command, length, sequence id; big-endian.
const (
	sequenceMagic   = 0xABCD
	sequenceVersion = 1
	commandRequest  = 1
	commandResponse = 2
	sequenceHeader  = 12
)

const (
	// Both directions of a connection.
	buffer = 64 * 1024
	// How long after the last call was due its answer is waited for.
	patience = 10 * time.Second
	// The kernel's PR_SET_TIMERSLACK.
	setTimerSlack = 29
)

// sequenceConn is one connection to a node. Nothing in it is locked: requests are written by one
// goroutine, and answers are read by one.
type sequenceConn struct {
	net.Conn
	reader *bufio.Reader
	writer *bufio.Writer
	// A request; only its sequence id changes.
	request []byte
	answer  []byte
}

func dialSequence(options Options) (*sequenceConn, error) {
	conn, err := net.Dial("tcp", options.at)
	if err != nil {
		return nil, err
	}
	request := bytes.Repeat([]byte{'x'}, sequenceHeader+options.size)
	binary.BigEndian.PutUint16(request, sequenceMagic)
	request[2], request[3] = sequenceVersion, commandRequest
	binary.BigEndian.PutUint32(request[4:], uint32(options.size))
	return &sequenceConn{
		Conn:    conn,
		reader:  bufio.NewReaderSize(conn, buffer),
		writer:  bufio.NewWriterSize(conn, buffer),
		request: request,
		answer:  make([]byte, options.size),
	}, nil
}

// ask leaves a request in the buffer: Flush sends what is there in one system call.
func (conn *sequenceConn) ask(id uint32) error {
	binary.BigEndian.PutUint32(conn.request[8:], id)
	_, err := conn.writer.Write(conn.request)
	return err
}

// next waits for an answer, which must carry what was sent; its sequence id.
func (conn *sequenceConn) next() (uint32, error) {
	var header [sequenceHeader]byte
	if _, err := io.ReadFull(conn.reader, header[:]); err != nil {
		return 0, err
	}
	if binary.BigEndian.Uint16(header[:]) != sequenceMagic || header[2] != sequenceVersion {
		return 0, fmt.Errorf("no frame of the dialect begins with % x", header)
	}
	size := binary.BigEndian.Uint32(header[4:])
	if size > longestBody {
		return 0, fmt.Errorf("a payload of %d bytes is too long", size)
	}
	if header[3] != commandResponse {
		said := make([]byte, size)
		_, err := io.ReadFull(conn.reader, said)
		return 0, fmt.Errorf("the node answered with command %d: %q %v", header[3], said, err)
	}
	if int(size) != len(conn.answer) {
		return 0, fmt.Errorf("an answer of %d bytes is not what was sent", size)
	}
	if _, err := io.ReadFull(conn.reader, conn.answer); err != nil {
		return 0, err
	}
	if !bytes.Equal(conn.answer, conn.request[sequenceHeader:]) {
		return 0, fmt.Errorf("the answer is not what was sent")
	}
	return binary.BigEndian.Uint32(header[8:]), nil
}

// hasNext says whether a whole answer has been read already.
func (conn *sequenceConn) hasNext() bool {
	return conn.reader.Buffered() >= sequenceHeader+len(conn.answer)
}

// load calls a running node, with `rate` when calls are due, else with callers that each have one
// call in flight; both are spread over connections.
func load(options Options) error {
	conns := make([]*sequenceConn, options.connections)
	for at := range conns {
		conn, err := dialSequence(options)
		if err != nil {
			return err
		}
		defer conn.Close()
		conns[at] = conn
	}
	run := &loadRun{options: options, begin: time.Now()}
	run.start = run.begin.Add(seconds(options.warmUp))
	run.end = run.start.Add(seconds(options.seconds))
	var working sync.WaitGroup
	for at, conn := range conns {
		work := run.closed
		if options.rate > 0 {
			work = run.open
		}
		working.Add(1)
		go func(at int, conn *sequenceConn) {
			defer working.Done()
			run.ended(work(at, conn))
		}(at, conn)
	}
	time.Sleep(time.Until(run.start))
	own, other := ownCPU(), cpuOf(options.watch)
	time.Sleep(time.Until(run.end))
	own, other = ownCPU()-own, cpuOf(options.watch)-other
	working.Wait()
	if run.failure != nil {
		return run.failure
	}
	report, err := summary(options, run.latencies)
	if err != nil {
		return err
	}
	report.OwnCPU, report.OtherCPU = own, other
	if len(run.lateness) > 0 {
		late, err := summary(options, run.lateness)
		if err != nil {
			return err
		}
		report.LateP50, report.LateP99, report.LateMax = late.P50, late.P99, late.Max
	}
	printReport(report)
	return nil
}

// loadRun is what the connections of a load have in common.
type loadRun struct {
	options           Options
	begin, start, end time.Time

	lock                sync.Mutex
	latencies, lateness [][]int64
	failure             error
}

func (run *loadRun) ended(latencies, lateness []int64, err error) {
	run.lock.Lock()
	defer run.lock.Unlock()
	run.latencies = append(run.latencies, latencies)
	if lateness != nil {
		run.lateness = append(run.lateness, lateness)
	}
	if err != nil {
		run.failure = err
	}
}

// closed has callers whose number is the sequence id of their calls. The moment of an answer is the
// moment of the caller's next call. What the answers in the buffer cause goes out in one write.
func (run *loadRun) closed(number int, conn *sequenceConn) (latencies, lateness []int64, err error) {
	callers := run.options.inFlight / run.options.connections
	if number < run.options.inFlight%run.options.connections {
		callers++
	}
	// All ask before any answer is read: what the server would not take unread must not be asked.
	if asked := callers * run.options.size; asked > 1<<20 {
		err := fmt.Errorf("%d bytes in flight on a connection, at most %d: give more --connections", asked, 1<<20)
		return nil, nil, err
	}
	called := make([]time.Time, callers)
	now := time.Now()
	for id := range called {
		called[id] = now
		if err := conn.ask(uint32(id)); err != nil {
			return nil, nil, err
		}
	}
	for waiting := callers; waiting > 0; {
		if !conn.hasNext() {
			if err := conn.writer.Flush(); err != nil {
				return nil, nil, err
			}
		}
		id, err := conn.next()
		if err == nil && int(id) >= callers {
			err = fmt.Errorf("nobody called with the sequence id %d", id)
		}
		if err != nil {
			return nil, nil, err
		}
		now := time.Now()
		if !now.Before(run.start) && now.Before(run.end) {
			latencies = append(latencies, now.Sub(called[id]).Nanoseconds())
		}
		called[id] = now
		if !now.Before(run.end) {
			waiting--
		} else if err := conn.ask(id); err != nil {
			return nil, nil, err
		}
	}
	return latencies, nil, nil
}

// due is when a call of all connections is due: its moment follows from its number.
func (run *loadRun) due(call int) time.Time {
	return run.begin.Add(seconds(float64(call) / run.options.rate))
}

// open makes every so-manieth call when it is due, whatever the answers do. A latency counts from
// when its call was due; the sequence id is the call's number, so nothing is looked up. One thread
// of its own writes, reads, and waits for both by the kernel's timer: Go's timers keep to the
// millisecond, and each hop between its threads would be a part of the latency.
func (run *loadRun) open(number int, conn *sequenceConn) (latencies, lateness []int64, err error) {
	runtime.LockOSThread()
	// The kernel may ring timers of a thread 50 us late unless it is told not to.
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, setTimerSlack, 1, 0); errno != 0 {
		return nil, nil, errno
	}
	wire, err := conn.bare()
	if err != nil {
		return nil, nil, err
	}
	last := run.end.Add(patience)
	due := func(at int) time.Time { return run.due(number + at*run.options.connections) }
	calls := 0
	for due(calls).Before(run.end) {
		calls++
	}
	for sent, answered := 0, 0; answered < calls; {
		now := time.Now()
		for ; sent < calls && !due(sent).After(now); sent++ {
			if !due(sent).Before(run.start) {
				lateness = append(lateness, now.Sub(due(sent)).Nanoseconds())
			}
			if err := conn.ask(uint32(number + sent*run.options.connections)); err != nil {
				return nil, nil, err
			}
		}
		if err := conn.writer.Flush(); err != nil {
			return nil, nil, err
		}
		until := last
		if sent < calls {
			until = due(sent)
		}
		readable, err := wire.wait(until)
		if err == nil && !readable && !time.Now().Before(last) {
			err = fmt.Errorf("%d of %d calls were not answered", calls-answered, calls)
		}
		if err != nil {
			return nil, nil, err
		}
		for ; readable; readable = conn.hasNext() {
			call, err := conn.next()
			if err != nil {
				return nil, nil, err
			}
			due := run.due(int(call))
			if !due.Before(run.start) {
				latencies = append(latencies, time.Since(due).Nanoseconds())
			}
			answered++
		}
	}
	return latencies, lateness, nil
}

// bareSocket is a connection without Go's scheduler: system calls block the thread.
type bareSocket struct {
	file *os.File
	fd   int
}

// bare takes the connection from Go's poller.
func (conn *sequenceConn) bare() (*bareSocket, error) {
	tcp, ok := conn.Conn.(*net.TCPConn)
	if !ok {
		return nil, fmt.Errorf("%T is no TCP connection", conn.Conn)
	}
	file, err := tcp.File()
	if err != nil {
		return nil, err
	}
	// Fd makes it blocking.
	bare := &bareSocket{file: file, fd: int(file.Fd())}
	if bare.fd >= syscall.FD_SETSIZE {
		return nil, fmt.Errorf("too many connections for a rate: at most about 500")
	}
	conn.reader.Reset(bare)
	conn.writer.Reset(bare)
	return bare, nil
}

func (bare *bareSocket) Read(into []byte) (int, error) {
	count, err := syscall.Read(bare.fd, into)
	for err == syscall.EINTR {
		count, err = syscall.Read(bare.fd, into)
	}
	if err == nil && count == 0 {
		err = io.EOF
	}
	if err != nil {
		return 0, err
	}
	return count, nil
}

func (bare *bareSocket) Write(from []byte) (int, error) {
	for written := 0; written < len(from); {
		count, err := syscall.Write(bare.fd, from[written:])
		if err != nil && err != syscall.EINTR {
			return written, err
		}
		if err == nil {
			written += count
		}
	}
	return len(from), nil
}

// wait says whether there is something to read, at that time at the latest.
func (bare *bareSocket) wait(until time.Time) (bool, error) {
	left := time.Until(until)
	if left < 0 {
		left = 0
	}
	var readable syscall.FdSet
	readable.Bits[bare.fd/64] |= 1 << (bare.fd % 64)
	timeout := syscall.NsecToTimeval(left.Nanoseconds())
	count, err := syscall.Select(bare.fd+1, &readable, nil, nil, &timeout)
	if err == syscall.EINTR {
		return false, nil
	}
	return count > 0, err
}
