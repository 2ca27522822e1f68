package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Message is the JSON body of every frame.
type Message struct {
	ID      uint64 `json:"id"`
	Payload string `json:"payload"`
}

const longestBody = 1 << 20

func writeMessage(to io.Writer, message Message) error {
	body, err := json.Marshal(message)
	if err != nil {
		return err
	}
	frame := make([]byte, 4+len(body))
	binary.BigEndian.PutUint32(frame, uint32(len(body)))
	copy(frame[4:], body)
	_, err = to.Write(frame)
	return err
}

func readMessage(from io.Reader) (Message, error) {
	var message Message
	var length [4]byte
	if _, err := io.ReadFull(from, length[:]); err != nil {
		return message, err
	}
	size := binary.BigEndian.Uint32(length[:])
	if size > longestBody {
		return message, fmt.Errorf("a body of %d bytes is too long", size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(from, body); err != nil {
		return message, err
	}
	return message, json.Unmarshal(body, &message)
}

func accept(at string, handle func(net.Conn)) error {
	listener, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go handle(connection)
	}
}

func serve(options Options) error {
	return accept(options.at, func(connection net.Conn) {
		defer connection.Close()
		reader := bufio.NewReader(connection)
		for {
			message, err := readMessage(reader)
			if err != nil || writeMessage(connection, message) != nil {
				return
			}
		}
	})
}

// Client finds the caller of an answer by its number.
type Client struct {
	connection net.Conn
	writing    sync.Mutex
	next       uint64
	waiting    sync.Mutex
	callers    map[uint64]chan Message
}

func dial(at string) (*Client, error) {
	connection, err := net.Dial("tcp", at)
	if err != nil {
		return nil, err
	}
	client := &Client{connection: connection, callers: map[uint64]chan Message{}}
	go client.read()
	return client, nil
}

func (client *Client) read() {
	reader := bufio.NewReader(client.connection)
	for {
		message, err := readMessage(reader)
		client.waiting.Lock()
		if err != nil {
			for id, caller := range client.callers {
				delete(client.callers, id)
				close(caller)
			}
			client.waiting.Unlock()
			return
		}
		caller := client.callers[message.ID]
		delete(client.callers, message.ID)
		client.waiting.Unlock()
		if caller != nil {
			caller <- message
		}
	}
}

// Call sends a payload and waits for its answer.
func (client *Client) Call(payload string) error {
	message := Message{ID: atomic.AddUint64(&client.next, 1), Payload: payload}
	caller := make(chan Message, 1)
	client.waiting.Lock()
	client.callers[message.ID] = caller
	client.waiting.Unlock()
	client.writing.Lock()
	err := writeMessage(client.connection, message)
	client.writing.Unlock()
	if err != nil {
		return err
	}
	answer, ok := <-caller
	if !ok || len(answer.Payload) != len(payload) {
		return fmt.Errorf("the answer is not what was sent")
	}
	return nil
}

func call(options Options) error {
	clients := make([]*Client, options.connections)
	for at := range clients {
		client, err := dial(options.at)
		if err != nil {
			return err
		}
		clients[at] = client
	}
	payload := strings.Repeat("x", options.size)
	return closedLoop(options, func(caller int) (func() error, error) {
		client := clients[caller%len(clients)]
		return func() error { return client.Call(payload) }, nil
	})
}

func receive(options Options) error {
	var received uint64
	go countReceived(options, &received)
	return accept(options.at, func(connection net.Conn) {
		defer connection.Close()
		reader := bufio.NewReaderSize(connection, 64*1024)
		for {
			if _, err := readMessage(reader); err != nil {
				return
			}
			atomic.AddUint64(&received, 1)
		}
	})
}

// send writes each message by itself, or, batched, whenever a buffer of 64 KiB is full.
func send(options Options) error {
	connection, err := net.Dial("tcp", options.at)
	if err != nil {
		return err
	}
	var to io.Writer = connection
	if options.mode == "batched" {
		to = bufio.NewWriterSize(connection, 64*1024)
	}
	message := Message{Payload: strings.Repeat("x", options.size)}
	for {
		message.ID++
		if err := writeMessage(to, message); err != nil {
			return err
		}
	}
}

func countReceived(options Options, received *uint64) {
	for atomic.LoadUint64(received) == 0 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(seconds(options.warmUp))
	cpu, from, before := ownCPU(), time.Now(), atomic.LoadUint64(received)
	time.Sleep(seconds(options.seconds))
	count, passed := atomic.LoadUint64(received)-before, time.Since(from)
	// The process goes on: a sender that lost its receiver would look like one that failed.
	printReport(Report{Calls: count, Seconds: passed.Seconds(), OwnCPU: ownCPU() - cpu})
}
