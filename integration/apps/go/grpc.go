package main

import (
	"context"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The one method, which takes a path and gives goods.
const buy = "/shop.Shop/Buy"

var shop = grpc.ServiceDesc{
	ServiceName: "shop.Shop",
	HandlerType: (*any)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "Buy", Handler: sell}},
}

// goods are more than any packet without data has.
var goods = strings.Repeat("here you are", 20)

// A window that does not change: nothing is sent to find out how large it should be.
const window = 1 << 20

// marked lets the packets of a connection have the mark of a fault's path, from now on, or none: heads of HTTP/2 are packed, so
// that a rule for packets does not find the path in them.
func marked(conn net.Conn, path string) {
	mark := 0
	for i, fault := range faults {
		if strings.HasPrefix(path, fault.path) {
			// The field for differentiated services is the upper six bits of that byte.
			mark = (i + 1) << 2
		}
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	// A connection has one of the two families; the other's option fails.
	raw.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IPV6, syscall.IPV6_TCLASS, mark)
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_TOS, mark)
	})
}

// remembering is a listener that knows its connections by their peers.
type remembering struct {
	net.Listener
	conns *sync.Map
}

func (r remembering) Accept() (net.Conn, error) {
	conn, err := r.Listener.Accept()
	if err == nil {
		r.conns.Store(conn.RemoteAddr().String(), conn)
	}
	return conn, err
}

// An answer takes so long: several requests of a connection are open at once.
const wrapping = 10 * time.Millisecond

// seller is a server and the connections that it has had.
type seller struct{ conns *sync.Map }

// serveRPC answers until the context ends.
func serveRPC(ctx context.Context, address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := grpc.NewServer(
		grpc.StatsHandler(otelgrpc.NewServerHandler()),
		grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(window),
	)
	seller := seller{new(sync.Map)}
	server.RegisterService(&shop, seller)
	go func() {
		<-ctx.Done()
		server.Stop()
	}()
	return server.Serve(remembering{listener, seller.conns})
}

func sell(of any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	path := new(wrapperspb.StringValue)
	if err := decode(path); err != nil {
		return nil, err
	}
	seller, ok := of.(seller)
	asking, known := peer.FromContext(ctx)
	if !ok || !known {
		return nil, status.Error(codes.Internal, "from nowhere")
	}
	time.Sleep(wrapping)
	found, _ := seller.conns.Load(asking.Addr.String())
	conn, ok := found.(*net.TCPConn)
	if !ok {
		return nil, status.Error(codes.Internal, "from an unknown place")
	}
	if strings.HasPrefix(path.Value, "/abort/") {
		conn.SetLinger(0)
		conn.Close()
		return nil, status.Error(codes.Aborted, "no answer")
	}
	if strings.HasPrefix(path.Value, "/answer-") {
		marked(conn, path.Value)
	} else {
		marked(conn, "")
	}
	return wrapperspb.String(goods), nil
}

// buyer is a client with one connection, which is made anew when it has ended.
type buyer struct {
	client *grpc.ClientConn
	lock   sync.Mutex
	conn   net.Conn
	// The last connection that has had a request.
	used net.Conn
}

type pathKey struct{}

// noteRequest tells in the client's span what is asked for, and from which ports.
type noteRequest struct{}

func (noteRequest) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	if path, ok := ctx.Value(pathKey{}).(string); ok {
		trace.SpanFromContext(ctx).SetAttributes(attribute.String("url.full", path))
	}
	return ctx
}

func (noteRequest) HandleRPC(ctx context.Context, event stats.RPCStats) {
	if head, ok := event.(*stats.OutHeader); ok {
		if local, ok := head.LocalAddr.(*net.TCPAddr); ok {
			trace.SpanFromContext(ctx).SetAttributes(attribute.IntSlice("shop.ports", []int{local.Port}))
		}
	}
}

func (noteRequest) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (noteRequest) HandleConn(context.Context, stats.ConnStats)                       {}

// rpcCustomers gives so many of each connection, who share it.
func rpcCustomers(address string, connections, streams int) ([]customer, error) {
	var all []customer
	for range connections {
		b, err := newBuyer(address)
		if err != nil {
			return nil, err
		}
		for range streams {
			all = append(all, b.buy)
		}
	}
	return all, nil
}

func newBuyer(address string) (*buyer, error) {
	b := new(buyer)
	dial := func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		b.lock.Lock()
		defer b.lock.Unlock()
		b.conn = conn
		return conn, err
	}
	var err error
	b.client, err = grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(dial),
		grpc.WithStatsHandler(otelgrpc.NewClientHandler()),
		grpc.WithStatsHandler(noteRequest{}),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
		// What was sent and got no answer is not asked for again unseen.
		grpc.WithDisableRetry(),
	)
	return b, err
}

// connected waits for a connection, and gives it, and whether it is a new one.
func (b *buyer) connected(ctx context.Context) (net.Conn, bool, error) {
	for {
		state := b.client.GetState()
		if state == connectivity.Ready {
			b.lock.Lock()
			defer b.lock.Unlock()
			isNew := b.used != b.conn
			b.used = b.conn
			return b.conn, isNew, nil
		}
		b.client.Connect()
		if !b.client.WaitForStateChange(ctx, state) {
			return nil, false, ctx.Err()
		}
	}
}

func (b *buyer) buy(ctx context.Context, path string) error {
	conn, isNew, err := b.connected(ctx)
	if err != nil {
		return err
	}
	// The first request shares its packet with what the connection agrees on, which is of no request.
	if isNew {
		if err := b.invoke(ctx, "/goods/first"); err != nil {
			return err
		}
	}
	if !strings.HasPrefix(path, "/answer-") {
		marked(conn, path)
	}
	// The next one may be made by somebody else at the same time, and is marked anew.
	defer marked(conn, "")
	return b.invoke(ctx, path)
}

func (b *buyer) invoke(ctx context.Context, path string) error {
	// What got lost comes within seconds, and what has been asked is waited for when the time is over.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	ctx = context.WithValue(ctx, pathKey{}, path)
	return b.client.Invoke(ctx, buy, wrapperspb.String(path), new(wrapperspb.StringValue))
}
