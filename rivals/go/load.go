package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
)

// The dialect `sequence`: magic AB CD, version, command, length, sequence id; big-endian.
const (
	sequenceMagic   = 0xABCD
	sequenceVersion = 1
	commandRequest  = 1
	commandResponse = 2
	sequenceHeader  = 12
)

// SequenceClient calls a Postroad node, several callers on one connection.
type SequenceClient struct {
	connection net.Conn
	writing    sync.Mutex
	// The answer to caller n, whose sequence id is n: a caller has one call in flight.
	answers []chan error
}

func dialSequence(options Options, callers int) (*SequenceClient, error) {
	connection, err := net.Dial("tcp", options.at)
	if err != nil {
		return nil, err
	}
	client := &SequenceClient{connection: connection, answers: make([]chan error, callers)}
	for at := range client.answers {
		client.answers[at] = make(chan error, 1)
	}
	go client.read(options.size)
	return client, nil
}

func (client *SequenceClient) read(size int) {
	reader := bufio.NewReaderSize(client.connection, 64*1024)
	for {
		id, payload, err := readResponse(reader)
		if err == nil && (int(id) >= len(client.answers) || len(payload) != size) {
			err = fmt.Errorf("answer %d of %d bytes is not what was sent", id, len(payload))
		}
		if err != nil {
			for _, answer := range client.answers {
				select {
				case answer <- err:
				default:
				}
			}
			return
		}
		client.answers[id] <- nil
	}
}

func readResponse(from io.Reader) (uint32, []byte, error) {
	var header [sequenceHeader]byte
	if _, err := io.ReadFull(from, header[:]); err != nil {
		return 0, nil, err
	}
	if binary.BigEndian.Uint16(header[:]) != sequenceMagic || header[2] != sequenceVersion {
		return 0, nil, fmt.Errorf("no frame of the dialect begins with % x", header)
	}
	size := binary.BigEndian.Uint32(header[4:])
	if size > longestBody {
		return 0, nil, fmt.Errorf("a payload of %d bytes is too long", size)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(from, payload); err != nil {
		return 0, nil, err
	}
	if header[3] != commandResponse {
		return 0, nil, fmt.Errorf("the node answered with command %d: %s", header[3], payload)
	}
	return binary.BigEndian.Uint32(header[8:]), payload, nil
}

func (client *SequenceClient) call(id int, frame []byte) error {
	client.writing.Lock()
	_, err := client.connection.Write(frame)
	client.writing.Unlock()
	if err != nil {
		return err
	}
	return <-client.answers[id]
}

// load calls a running node: callers that each have one call in flight, spread over connections.
func load(options Options) error {
	perConnection := (options.inFlight + options.connections - 1) / options.connections
	clients := make([]*SequenceClient, options.connections)
	for at := range clients {
		client, err := dialSequence(options, perConnection)
		if err != nil {
			return err
		}
		clients[at] = client
	}
	return closedLoop(options, func(caller int) (func() error, error) {
		client, id := clients[caller%len(clients)], caller/len(clients)
		frame := make([]byte, sequenceHeader+options.size)
		binary.BigEndian.PutUint16(frame, sequenceMagic)
		frame[2], frame[3] = sequenceVersion, commandRequest
		binary.BigEndian.PutUint32(frame[4:], uint32(options.size))
		binary.BigEndian.PutUint32(frame[8:], uint32(id))
		return func() error { return client.call(id, frame) }, nil
	})
}
