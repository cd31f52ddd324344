// Turns a panic into an ordinary failure of the calls that were under way.
//
// Rust in WASM aborts on a panic: the instance is lost, and with it every future that was waiting in it. Nobody
// settles those promises, so callers would hang, and an alarm handler that hangs stops its object's alarms for
// good. The runtime does say that an instance was lost, in an error event; from there every open call is failed.
const open = new Set();
let lost = false;

addEventListener("error", (event) => {
  if (!(event.error instanceof WebAssembly.RuntimeError)) return;
  lost = true;
  const waiting = [...open];
  open.clear();
  for (const fail of waiting) fail(new Error("the WASM instance was lost"));
});

/** Whether an instance was lost: the next call has to go through the build's own wrapper, which makes a new one. */
export const instanceIsLost = () => lost;

/** To be called when it does. */
export const instanceIsReplaced = () => {
  lost = false;
};

/** Runs `call`, and fails with it, or with the instance that it runs in. */
export const guarded = (call) =>
  new Promise((resolve, reject) => {
    open.add(reject);
    const settle = (then) => (value) => {
      open.delete(reject);
      then(value);
    };
    try {
      Promise.resolve(call()).then(settle(resolve), settle(reject));
    } catch (error) {
      settle(reject)(error);
      // An instance can be lost before a call has made its promise. The build listens for the event as well.
      if (error instanceof WebAssembly.RuntimeError) reportError(error);
    }
  });
