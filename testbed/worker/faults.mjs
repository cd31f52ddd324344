// The objects' script with a Switchboard that can be made to fail, for tests. It wraps the real one.
import * as real from "./objects.mjs";

let mode = "ok";

export const UserObject = real.UserObject;

export class Switchboard extends real.Switchboard {
  fetch(request) {
    if (mode === "hang") return new Promise(() => setTimeout(() => {}, 60_000));
    if (mode === "error") throw new Error("a fault that a test asked for");
    return super.fetch(request);
  }
}

export default {
  fetch(request) {
    mode = new URL(request.url).searchParams.get("mode") ?? "ok";
    return new Response(mode);
  },
};
