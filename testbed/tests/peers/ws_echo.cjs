// An echo on the agent's own WebSocket library, with the agent's own settings. It says when it listens, on standard
// output. Text that is a command is not echoed:
//   close CODE REASON | big BYTES | ping TEXT | terminate
const { WebSocketServer } = require("ws");

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[2]), maxPayload: 512 * 1024 });
server.on("listening", () => console.log("listening"));
server.on("connection", (socket) => {
  socket.on("error", () => {});
  socket.on("message", (data, isBinary) => {
    const [command, first, ...rest] = isBinary || data.length > 200 ? [] : data.toString().split(" ");
    if (command === "close") socket.close(first && Number(first), rest.join(" "));
    else if (command === "big") socket.send(Buffer.alloc(Number(first), "x"));
    else if (command === "ping") socket.ping(first);
    else if (command === "terminate") socket.terminate();
    else socket.send(data, { binary: isBinary });
  });
});
