// Main module of the Worker: the WASM build behind the guard.
import Edge from "../build/index.js";
import { guarded, instanceIsLost, instanceIsReplaced } from "./guard.mjs";

// Called as they are: `new Edge(…)` builds two proxies for each request, which cost more than its verification.
// All they do is to bring a lost instance back, so they are used for that alone.
const { fetch: theLongWay, atOnce } = Edge.prototype;

// The answer to a request that was under way when the instance was lost. Same shape as every error of ours.
const lost = () => {
  const requestId = `req-${crypto.randomUUID()}`;
  console.error(JSON.stringify({ event: "instance_lost", requestId }));
  const headers = { "cache-control": "no-store", "x-request-id": requestId };
  return Response.json({ error: "Internal error", code: "internal", requestId }, { status: 500, headers });
};

// Waits in WASM, and so behind the guard.
const theGuardedWay = (request, env, ctx) =>
  guarded(() => {
    if (!instanceIsLost()) return theLongWay.call({ env, ctx }, request);
    instanceIsReplaced();
    return new Edge(ctx, env).fetch(request);
  }).catch(lost);

export default {
  fetch(request, env, ctx) {
    const long = () => theGuardedWay(request, env, ctx);
    // A body can be sent once only, and the short way may have to fall back.
    if (instanceIsLost() || request.body !== null) return long();
    let answer;
    try {
      answer = atOnce(request, env);
    } catch (error) {
      reportError(error);
      return lost();
    }
    if (answer === undefined) return long();
    // A back end that could not be reached, or a machine that refused: the long way asks again, and says so. The
    // promise is the platform's own: it does not wait in WASM, and a panic elsewhere leaves it alone.
    return answer instanceof Promise ? answer.catch(long) : answer;
  },
};
