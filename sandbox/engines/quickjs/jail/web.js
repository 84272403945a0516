// Request and Response (https://fetch.spec.whatwg.org/#fetch-api), for modules with `fetch(request, env)`. A body is a text
// or bytes. There are no streams and no network. Evaluated once in the zygote, after search_params.js, headers.js and
// url.js, before prelude.js.
(() => {
  'use strict';
  const { apply, getOwnPropertyDescriptor } = Reflect;
  const { parse, stringify } = JSON;
  const { dictionary, isObject, publish, requireArguments, throwNotSupported } = webIdl;
  const { URLSearchParams } = searchParams;
  const { Headers, TOKEN } = headers;
  const { URL, getRequestUrl, setRequestUrl } = urls;

  // --- bodies -------------------------------------------------------------------------------------------------------

  const sizeOf = getOwnPropertyDescriptor(ArrayBuffer.prototype, 'byteLength').get;
  const isBuffer = (value) => {
    try {
      return apply(sizeOf, value, []) >= 0;
    } catch {
      return false;
    }
  };
  const FORM = 'application/x-www-form-urlencoded;charset=UTF-8', TEXT = 'text/plain;charset=UTF-8';
  // Return { content, type }: a text or a copy of bytes, and its content type.
  const extract = (body) => {
    if (ArrayBuffer.isView(body) && isBuffer(body.buffer)) {
      return { content: new Uint8Array(body.buffer, body.byteOffset, body.byteLength).slice() };
    }
    if (isBuffer(body)) return { content: new Uint8Array(body).slice() };
    if (body instanceof URLSearchParams) return { content: `${body}`, type: FORM };
    const strange = ArrayBuffer.isView(body) || body instanceof SharedArrayBuffer
      || (isObject(body) && !(body instanceof String) && (body[Symbol.iterator] || body[Symbol.asyncIterator]));
    if (strange) {
      throw new TypeError('a body on QuickJS is a text, an ArrayBuffer, a view of one or URLSearchParams; Deno has streams (--engine deno)');
    }
    return { content: `${body}`.toWellFormed(), type: TEXT };
  };
  const textOf = (content) => {
    if (typeof content !== 'string') return utf8.decode(content ?? new Uint8Array(0));
    return content[0] === '\ufeff' ? content.slice(1) : content;
  };
  const bytesOf = (content) => (typeof content === 'string' ? utf8.encode(content) : new Uint8Array(content ?? 0));

  let fill, peek, take;  // set the body of a message; get it; get it and mark it as used
  class Body {
    #content = null;
    #used = false;

    static {
      fill = (message, content) => { message.#content = content; };
      peek = (message) => {
        if (message.#used) throw new TypeError('the body has already been read');
        return message.#content;
      };
      take = (message) => {
        const content = peek(message);
        message.#used = content !== null;
        return content;
      };
    }

    get bodyUsed() { return this.#used; }
    get body() {
      if (this.#content === null) return null;
      throw new TypeError('body is a stream, which QuickJS does not have: use text(), json(), arrayBuffer() or bytes(), or Deno (--engine deno)');
    }
    async text() { return textOf(take(this)); }
    async json() { return parse(textOf(take(this))); }
    async bytes() { return bytesOf(take(this)); }
    async arrayBuffer() { return bytesOf(take(this)).buffer; }
    async blob() { throwNotSupported('blob()'); }
    async formData() { throwNotSupported('formData()'); }
  }

  // Set the body of a message, and its content type unless the headers have one.
  const setBody = (message, { content, type }, headers) => {
    fill(message, content);
    if (type !== undefined && !headers.has('content-type')) headers.append('content-type', type);
  };

  // --- Request ------------------------------------------------------------------------------------------------------

  const NORMALIZED = /^(?:delete|get|head|options|post|put)$/i;
  const FORBIDDEN = /^(?:connect|trace|track)$/i;
  const methodOf = (value) => {
    const method = `${value}`;
    if (!TOKEN.test(method) || FORBIDDEN.test(method)) throw new TypeError(`invalid method: ${method.slice(0, 100).toWellFormed()}`);
    return NORMALIZED.test(method) ? method.toUpperCase() : method;
  };

  let requestOf;
  class Request extends Body {
    #url;  // for the request that a module receives, undefined until the program reads it
    #method = 'GET';
    #headers;

    constructor(input, init = undefined) {
      super();
      if (input === requestOf) {
        this.#headers = new Headers();
        return;
      }
      requireArguments(arguments, 1, 'Request');
      const options = dictionary(init, 'Request');
      const from = isObject(input) && #url in input ? input : undefined;
      this.#url = from ? from.#address() : new URL(input).href;
      const { body, headers, method } = options;
      if (method !== undefined) this.#method = methodOf(method);
      else if (from) this.#method = from.#method;
      this.#headers = new Headers(headers === undefined ? from?.#headers : headers);
      const given = body !== undefined && body !== null;
      if (/^(?:GET|HEAD)$/.test(this.#method) && (given || (from && peek(from) !== null))) {
        throw new TypeError(`a request with the method ${this.#method} cannot have a body`);
      }
      if (given) setBody(this, extract(body), this.#headers);
      else if (from) fill(this, take(from));
    }

    static {
      requestOf = (url) => {
        setRequestUrl(url);
        return new Request(requestOf);
      };
    }

    #address() { return (this.#url ??= getRequestUrl()); }
    get url() { return this.#address(); }
    get method() { return this.#method; }
    get headers() { return this.#headers; }
    clone() {
      const content = peek(this);
      const twin = new Request(this.#address(), { method: this.#method, headers: this.#headers });
      fill(twin, content);
      return twin;
    }
  }

  // --- Response -----------------------------------------------------------------------------------------------------

  let isResponse, resultOf;
  class Response extends Body {
    #status;
    #statusText;
    #headers;

    constructor(body = null, init = undefined) {
      super();
      const { headers, status = 200, statusText = '' } = dictionary(init, 'Response');
      this.#headers = new Headers(headers);
      this.#status = status & 0xffff;  // Web IDL's conversion to unsigned short
      if (!(this.#status >= 200 && this.#status <= 599)) throw new RangeError('the status must be a number from 200 to 599');
      this.#statusText = `${statusText}`;
      if (!/^[\t -~\x80-\xff]*$/.test(this.#statusText)) throw new TypeError('statusText contains an invalid character');
      if (body !== null) this.#setBody(extract(body));
    }

    #setBody(extracted) {
      const status = this.#status;
      if (status === 204 || status === 205 || status === 304) {
        throw new TypeError(`a response with the status ${status} cannot have a body`);
      }
      setBody(this, extracted, this.#headers);
    }

    static {
      isResponse = (object) => isObject(object) && #status in object;
      // Return the result of a run that ends with this response: the value of a JSON body, any other body as a string.
      resultOf = (response) => {
        const text = textOf(take(response));
        return /[/+]json\b/.test(response.#headers.get('content-type') ?? '') ? parse(text) : text;
      };
    }

    static json(data, init = undefined) {
      requireArguments(arguments, 1, 'Response.json');
      const text = stringify(data);
      if (text === undefined) throw new TypeError('Response.json: the value is not JSON');
      const response = new Response(null, init);
      response.#setBody({ content: text, type: 'application/json' });
      return response;
    }

    static error() { throwNotSupported('Response.error'); }
    static redirect() { throwNotSupported('Response.redirect'); }

    get type() { return (this.#status, 'default'); }
    get url() { return (this.#status, ''); }
    get redirected() { return (this.#status, false); }
    get status() { return this.#status; }
    get statusText() { return this.#statusText; }
    get ok() { return this.#status <= 299; }
    get headers() { return this.#headers; }
    clone() {
      const content = peek(this);
      const twin = new Response(null, { status: this.#status, statusText: this.#statusText, headers: this.#headers });
      fill(twin, content);
      return twin;
    }
  }

  publish({ Request, Response });
  globalThis.__promptlog_web = { __proto__: null, request: requestOf, is: isResponse, value: resultOf };
})();
