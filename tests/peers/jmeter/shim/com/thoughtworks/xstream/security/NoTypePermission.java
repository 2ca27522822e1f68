package com.thoughtworks.xstream.security;

/**
 * Test-only stand-in for the class of the same name in XStream.
 *
 * Since 1.4.18 XStream refuses every type that the program has not listed.
 * JMeter 2.13 is older than that rule and lists none, so with Debian's XStream
 * 1.4.20 it stops with ForbiddenClassException on any test plan. XStream asks
 * NONE as the last of its permissions; this one allows every type, which
 * restores the behaviour JMeter was written for. It must come before
 * xstream.jar on the class path.
 *
 * It removes a protection against hostile XML: use it only to load the plan
 * that lies beside it.
 */
public class NoTypePermission implements TypePermission {
    public static final TypePermission NONE = new NoTypePermission();

    @Override
    @SuppressWarnings("rawtypes") // the interface of XStream is declared raw
    public boolean allows(Class type) {
        return type != null;
    }
}
