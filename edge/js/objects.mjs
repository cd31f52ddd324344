// Main module of the objects' script: a panic here spares the requests that the Worker has under way.
import { DurableObject } from "cloudflare:workers";
import * as wasm from "../build/index.js";
import { guarded } from "./guard.mjs";

const guard = (Inner) =>
  class extends DurableObject {
    #inner;

    constructor(ctx, env) {
      super(ctx, env);
      this.#inner = new Inner(ctx, env);
    }

    fetch(request) {
      return guarded(() => this.#inner.fetch(request));
    }

    alarm() {
      return guarded(() => this.#inner.alarm());
    }
  };

export const UserObject = guard(wasm.UserObject);
export const Switchboard = guard(wasm.Switchboard);

// Objects are reached through their bindings; the script itself serves nobody.
export default { fetch: () => new Response(null, { status: 404 }) };
